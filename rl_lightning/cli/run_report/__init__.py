"""`rl-lightning report`: a run on one page."""
