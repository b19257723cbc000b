"""Classes that an environment consists of, and what their modules share between environments."""
