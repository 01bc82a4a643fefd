"""The self-contained report of a study: one HTML file, no script, nothing fetched."""
