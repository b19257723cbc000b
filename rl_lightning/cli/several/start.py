"""Starts a command on cores of its own: `python start.py PARENT CORES COMMAND ...`. It imports nothing of ours.

The command takes this process over. It is asked to stop (SIGTERM) when its parent has died, however that happened.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of Linux's prctl; outlives exec


def main() -> None:
    """Become the command."""
    parent, cores, *command = sys.argv[1:]
    if sys.platform == "linux":
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it died before that
            sys.exit(128 + signal.SIGTERM)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
