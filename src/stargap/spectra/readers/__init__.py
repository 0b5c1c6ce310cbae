"""One reader for each layout of spectrum files."""
