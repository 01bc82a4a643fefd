"""The toy `wrong_l0`."""
