"""Pages of one file that load nothing from elsewhere, and the figures in them."""
