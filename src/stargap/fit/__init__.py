"""Fits of labels to prepared spectra."""
