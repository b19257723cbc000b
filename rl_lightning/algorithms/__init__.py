"""The algorithms, one file for each."""
