"""What tests, benchmarks and docs scripts share; tests import it from pytest's pythonpath."""
