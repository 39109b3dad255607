"""Files: fetched, written whole, read from a run directory."""
