"""Whether torch's threads find cores to run on."""

import os
import time
from contextlib import suppress

import torch
from lightning.pytorch.utilities import rank_zero_warn


def are_crowded(threads: int, cores: int, load: float, own_seconds: float) -> bool:
    """Whether less than half of torch's threads would find a core that nobody else uses.

    Args:
        threads: torch's.
        cores: that this process may use.
        load: mean number of processes that wanted one of them in the last minute.
        own_seconds: of processor time that this process has used; a sixtieth of it is the most that the load has of it.
    """
    of_others = max(0.0, load - own_seconds / 60)
    return threads > 1 and cores - of_others < threads / 2


def warn_of_crowd(device: torch.device) -> None:
    """Say that several threads of torch are slow on a machine whose cores others use: they wait for each other.

    Args:
        device: of the training.

    Warns:
        UserWarning: naming the number of threads to give.
    """
    machine = os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    with suppress(OSError):  # not every system knows its load
        load = os.getloadavg()[0]
        if device.type == "cpu" and are_crowded(
            torch.get_num_threads(), cores, load * cores / machine, time.process_time()
        ):
            rank_zero_warn(
                f"torch has {torch.get_num_threads()} threads, but other programs use this machine's {machine} cores "
                f"(load {load:.1f}), and threads that wait for each other are many times slower: set "
                "OMP_NUM_THREADS=1, or call torch.set_num_threads(1)"
            )
