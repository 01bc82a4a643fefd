"""The stages of a study, one a file."""
