"""Folders whose files are written atomically, on this machine or behind a URL (fsspec)."""
