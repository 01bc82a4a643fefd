"""The toy `compressed_computation`."""
