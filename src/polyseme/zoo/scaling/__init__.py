"""The toy `scaling`."""
