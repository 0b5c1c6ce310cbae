"""From measurements to a catalogue: schema, writers, tables on the terminal."""
