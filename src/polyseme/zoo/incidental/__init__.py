"""The toy `incidental`."""
