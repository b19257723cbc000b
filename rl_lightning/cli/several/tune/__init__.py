"""`rl-lightning tune`: a search for the settings with which a learner does best."""
