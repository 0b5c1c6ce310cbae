"""Tables of the label prior: isochrones and the reference distribution."""
