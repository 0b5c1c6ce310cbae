"""Figures: one function a figure, from arrays to a matplotlib Figure."""
