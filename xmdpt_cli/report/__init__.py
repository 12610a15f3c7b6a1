"""HTML pages, charts, tables and contact sheets."""
