"""Everything that is measured of a spectrum."""
