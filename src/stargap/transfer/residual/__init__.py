"""The transfer made from unlabelled spectra."""
