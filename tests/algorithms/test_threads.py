import os
import time

import pytest
import torch

from rl_lightning.algorithms.shared.threads import are_crowded, warn_of_crowd

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("threads", "cores", "load", "own_seconds", "expected"),
    [
        (2, 2, 2.0, 0.0, True),  # both cores taken
        (2, 2, 1.1, 0.0, True),
        (2, 2, 1.0, 0.0, False),  # one core for two threads
        (2, 2, 0.1, 0.0, False),
        (1, 2, 9.0, 0.0, False),  # one thread waits for no other
        (2, 2, 2.0, 60.0, False),  # one of the two may have been this process
        (2, 2, 2.0, 30.0, True),
        (2, 2, 2.0, 1e6, False),
        (64, 64, 31.0, 0.0, False),
        (64, 64, 33.0, 0.0, True),
        (4, 64, 61.0, 0.0, False),
        (4, 64, 63.0, 0.0, True),
    ],
)
def test_threads_are_crowded_where_less_than_half_of_them_find_a_free_core(threads, cores, load, own_seconds, expected):
    assert are_crowded(threads, cores, load, own_seconds) is expected


@pytest.fixture
def machine(monkeypatch):
    """Sets what the machine says: its cores, those of this process, and the load."""

    def is_one(cores, own, load, threads):
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(own)), raising=False)
        monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
        monkeypatch.setattr(time, "process_time", lambda: 0.0)
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)

    return is_one


def test_a_crowded_machine_is_said_with_the_fix(machine):
    machine(cores=2, own=2, load=2.34, threads=2)
    with pytest.warns(
        UserWarning, match=r"^torch has 2 threads, .* 2 cores \(load 2\.3\).*: set OMP_NUM_THREADS=1, or c"
    ):
        warn_of_crowd(CPU)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_machine_with_free_cores_is_not_spoken_of(machine, threads):
    machine(cores=2, own=2, load=0.5, threads=threads)
    warn_of_crowd(CPU)


@pytest.mark.filterwarnings("error")
def test_nor_are_threads_of_the_processor_where_another_device_trains(machine):
    machine(cores=2, own=2, load=9.0, threads=2)
    warn_of_crowd(torch.device("cuda"))


def test_a_process_that_may_use_some_cores_has_its_share_of_the_load(machine):
    machine(cores=8, own=2, load=6.0, threads=2)  # 1.5 of its own two
    with pytest.warns(UserWarning, match="torch has 2 threads"):
        warn_of_crowd(CPU)


@pytest.mark.filterwarnings("error")
def test_so_a_load_above_its_cores_may_leave_them_free(machine):
    machine(cores=8, own=2, load=3.0, threads=2)  # 0.75 of its own two
    warn_of_crowd(CPU)


@pytest.mark.filterwarnings("error")
def test_a_machine_that_does_not_know_its_load_is_not_spoken_of(machine, monkeypatch):
    machine(cores=2, own=2, load=9.0, threads=2)

    def unknown():
        raise OSError("unobtainable")

    monkeypatch.setattr(os, "getloadavg", unknown)
    warn_of_crowd(CPU)
