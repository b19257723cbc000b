"""What algorithms learn from."""
