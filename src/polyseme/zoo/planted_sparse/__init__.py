"""The toy `planted_sparse`."""
