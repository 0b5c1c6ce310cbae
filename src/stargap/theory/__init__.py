"""Synthetic spectra: grid readers, broadening, the emulator."""
