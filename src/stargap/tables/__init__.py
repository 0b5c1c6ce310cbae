"""Tables: their columns, reading, writing, joins."""
