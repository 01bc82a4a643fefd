"""The toy `correlated_pairs`."""
