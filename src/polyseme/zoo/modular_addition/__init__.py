"""The toy `modular_addition`."""
