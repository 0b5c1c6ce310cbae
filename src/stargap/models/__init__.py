"""Models that ship with the package: safetensors and cards."""
