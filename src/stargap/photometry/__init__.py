"""Labels of M dwarfs from photometry and parallaxes, on the scale of Mann et al. (2015)."""
