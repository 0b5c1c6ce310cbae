"""Spectra: from survey files to prepared spectra, and the store of a million of them."""
