"""The toy `datapoint_features`."""
