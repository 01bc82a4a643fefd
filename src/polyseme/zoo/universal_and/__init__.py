"""The toy `universal_and`."""
