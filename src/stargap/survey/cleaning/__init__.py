"""Spectra that are not of M dwarfs: clusters, rules, and the page that shows them."""
