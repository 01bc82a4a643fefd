"""The toy `absorption`."""
