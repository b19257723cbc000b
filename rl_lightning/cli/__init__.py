"""The command line `rl-lightning`."""
