"""From the spectra of a survey to its sample of M dwarfs."""
