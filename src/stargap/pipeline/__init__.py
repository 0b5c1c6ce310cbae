"""A survey run: its settings, its stages, and the engine that does them."""
