"""Coefficients of the photometric relations, with where they come from."""
