"""The program: `rl-lightning`, and `python -m rl_lightning`."""

import gc
import sys

from rl_lightning.cli.light import answered


def main() -> None:
    """Import what the program needs, then run it."""
    if answered(sys.argv[1:]):
        return
    gc.disable()  # imports leave nothing to collect, and a quarter of their time went into looking for it
    from rl_lightning.cli.main import main as run

    gc.freeze()  # nor will anything of theirs be collected later
    gc.enable()
    run()


if __name__ == "__main__":
    main()
