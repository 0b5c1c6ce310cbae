"""Comparison with other work, figures and reports."""
