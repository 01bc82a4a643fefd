"""The toy `probe_steering`."""
