"""The toy `bit_extraction`."""
