"""Studies: harvest, train and measure as plain functions from a config and artifacts to one artifact."""
