"""The toy `skip_trigram`."""
