"""The toy `induction`."""
