"""Cycle-StarNet as it was published."""
