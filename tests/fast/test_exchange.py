"""Means over real processes, by memory that they share and by torch."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("exchanging.py")


def exchanged(tmp_path: Path, case: str, processes: int) -> list[tuple[int, str]]:
    """Exit status and errors of all processes."""
    started = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(rank), str(processes), str(tmp_path / "meet"), case],
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(processes)
    ]  # fmt: skip
    errors = [process.communicate(timeout=120)[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, errors, strict=True)]


def test_three_processes_of_one_machine_have_one_mean_in_the_order_of_their_ranks(tmp_path: Path) -> None:
    for code, errors in exchanged(tmp_path, "equal", 3):
        assert code == 0, errors


@pytest.mark.parametrize("case", ["machines", "unreachable"])
def test_torch_exchanges_where_memory_cannot_be_shared(case: str, tmp_path: Path) -> None:
    for code, errors in exchanged(tmp_path, case, 2):
        assert code == 0, errors


def test_a_process_that_ends_is_missed_and_different_numbers_are_refused(tmp_path: Path) -> None:
    (_, missed), (code, _) = exchanged(tmp_path, "ends", 2)
    assert code == 0
    assert "DistNetworkError: another process has ended" in missed
    (tmp_path / "meet").unlink(missing_ok=True)
    (_, refused), (_, lost) = exchanged(tmp_path, "differs", 2)
    assert "processes exchange different numbers, [3, 4]" in refused
    assert "DistNetworkError: another process has ended" in lost
