"""Several runs: from one command, and compared."""
