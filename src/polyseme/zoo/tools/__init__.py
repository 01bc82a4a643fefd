"""What the toys share."""
