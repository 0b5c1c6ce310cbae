"""Lines between the scales of labels, as `docs/make_scales.py` fits them."""
