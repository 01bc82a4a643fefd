"""The toy `missed_solution`."""
