"""`rl-lightning compare`: whether runs differ, and how sure that is."""
