"""The program: `rl-lightning`, and `python -m rl_lightning`."""

import gc
import os
import select
import sys

from rl_lightning.cli.light import answered

UNREAD = 141  # what a shell says of a program that SIGPIPE has ended


def main() -> None:
    """Answer or run; end in silence where the reader of a pipe has closed it, as `head` does once it has enough."""
    try:
        if not answered(sys.argv[1:]):
            _import_and_run()
        sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        sys.exit(UNREAD)


def _import_and_run() -> None:
    gc.disable()  # imports leave nothing to collect, and a quarter of their time went into looking for it
    from rl_lightning.cli.main import main as run

    gc.freeze()  # nor will anything of theirs be collected later
    gc.enable()
    run()


def _nobody_reads() -> bool:
    stdout = select.poll()
    stdout.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in stdout.poll(0))


if __name__ == "__main__":
    main()
