"""The store of a survey: shards of spectra on the native grid."""
