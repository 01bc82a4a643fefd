"""The toy `absolute_value`."""
