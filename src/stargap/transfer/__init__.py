"""Cycle-StarNet: from the synthetic domain to the observed one and back."""
