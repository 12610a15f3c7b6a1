"""Folders of files that are written whole, on this machine or behind a URL (fsspec)."""
