"""Simulated surveys: files, stars of another physics, and whole surveys with known truth."""
