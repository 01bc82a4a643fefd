"""Trials of diagnoses and verdicts on networks whose truth is known."""
