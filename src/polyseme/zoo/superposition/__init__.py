"""The toy `superposition`."""
