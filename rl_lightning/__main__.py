"""`python -m rl_lightning` is `rl-lightning`."""

from rl_lightning.cli.main import main

main()
