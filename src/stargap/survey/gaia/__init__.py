"""Gaia: its table, the join with spectra, and its archive."""
