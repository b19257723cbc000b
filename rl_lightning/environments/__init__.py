"""Environments: making and checking them, playing in them."""
