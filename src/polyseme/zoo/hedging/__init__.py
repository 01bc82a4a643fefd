"""The toy `hedging`."""
