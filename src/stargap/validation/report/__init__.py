"""The report of a survey run."""
