"""Kills 25 writers of one checkpoint and says what each left. It forks, so it has a process of its own."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from rl_lightning.checkpoints.file import read, write


def state(number: int, size: int) -> dict[str, object]:
    return {"weights": torch.arange(size) + number, "number": number}


def writes_for_ever(path: Path) -> None:
    number = read(path)["number"]
    while True:
        number += 1
        write(state(number, size=200_000), path)


if __name__ == "__main__":
    path, draw = Path(sys.argv[1]), random.Random(0)
    write(state(0, size=2), path)
    for _ in range(25):
        begun = path.stat().st_mtime_ns
        if (child := os.fork()) == 0:
            writes_for_ever(path)
        while path.stat().st_mtime_ns == begun:  # until it has saved once, however slow the machine is
            time.sleep(0.001)
        time.sleep(draw.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        saved = read(path)
        number = saved["number"]
        assert torch.equal(saved["weights"], state(number, len(saved["weights"]))["weights"])
        print(number, len(os.listdir(path.parent)))
