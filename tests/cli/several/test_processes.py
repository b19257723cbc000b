"""Commands side by side: their cores, their logs, one that fails, signals, and a parent that is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rl_lightning.cli.several.processes import START, Job, available_cores, divide, side_by_side

STOPS = "import signal, sys; signal.signal({0}, lambda *_: sys.exit(7)); print('ready', flush=True); signal.pause()"
PARENT = """
import os, subprocess, sys

start, code = sys.argv[1:]
core = str(min(os.sched_getaffinity(0)))
subprocess.Popen([sys.executable, "-I", "-S", start, str(os.getpid()), core, sys.executable, "-c", code]).wait()
"""


def python(name: str, code: str, folder: Path) -> Job:
    return Job(name, [sys.executable, "-c", code], folder / name / "output.log")


def wait_until_ready(*logs: Path) -> None:
    while not all(log.exists() and "ready" in log.read_text() for log in logs):
        time.sleep(0.02)


def test_cores_are_divided_evenly_and_shared_only_where_there_are_fewer_than_jobs():
    assert divide([3, 4, 5, 6, 7], 2) == [[3, 4], [5, 6]]
    assert divide([3, 4], 2) == [[3], [4]]
    assert divide([3, 4], 5) == [[3], [4], [3], [4], [3]]


def test_each_job_has_cores_of_its_own_and_a_thread_for_each_and_one_that_fails_takes_no_other_along(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "5")
    tells = (
        "import os, sys; print(sorted(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'],"
        " os.environ['MKL_NUM_THREADS'], os.getpgid(0) == os.getpid()); sys.exit({})"
    )
    jobs = [python("a", tells.format(0), tmp_path), python("b", tells.format(3), tmp_path)]
    jobs.append(python("c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", tmp_path))
    ended = {each.job.name: each.code for each in side_by_side(jobs, 2)}
    assert ended == {"a": 0, "b": 3, "c": -signal.SIGKILL}
    first, second = divide(available_cores(), 2)
    assert (tmp_path / "a/output.log").read_text() == f"{first} {len(first)} 5 True\n"
    assert (tmp_path / "b/output.log").read_text() == f"{second} {len(second)} 5 True\n"


def test_a_job_begins_when_another_has_ended_and_is_asked_for_only_then(tmp_path):
    asked = []

    def jobs():
        for name in "abc":
            asked.append(name)
            yield python(name, "", tmp_path)

    ended = side_by_side(jobs(), 1)
    for count, each in enumerate(ended, start=1):
        assert [each.job.name, len(asked)] == ["abc"[count - 1], count]


def test_jobs_are_stopped_where_the_caller_leaves(tmp_path):
    def leave():
        if all((tmp_path / name / "output.log").exists() for name in "ab"):
            wait_until_ready(tmp_path / "a/output.log", tmp_path / "b/output.log")
            raise ZeroDivisionError

    code = STOPS.format(int(signal.SIGTERM)).replace("sys.exit(7)", "print('stopped') or sys.exit()")
    with pytest.raises(ZeroDivisionError):
        list(side_by_side([python(name, code, tmp_path) for name in "ab"], 2, leave))
    assert [(tmp_path / name / "output.log").read_text() for name in "ab"] == ["ready\nstopped\n"] * 2
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)])
def test_a_signal_is_passed_on_to_all_and_nothing_begins_after_it(tmp_path, number, code):
    stops, ended, sent = STOPS.format(int(number)), [], []

    def kill():
        if not sent:
            wait_until_ready(tmp_path / "a/output.log", tmp_path / "b/output.log")
            sent.append(os.kill(os.getpid(), number))

    def run():
        for each in side_by_side([python(name, stops, tmp_path) for name in "abc"], 2, kill):
            ended.append((each.job.name, each.code))

    with pytest.raises(SystemExit) as stop:
        run()
    assert sorted(ended) == [("a", 7), ("b", 7)]
    assert stop.value.code == code
    assert not (tmp_path / "c").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells the jobs")
def test_a_job_is_asked_to_stop_where_its_parent_is_killed(tmp_path):
    code = STOPS.format(int(signal.SIGTERM)).replace("sys.exit(7)", "print('stopped') or sys.exit()")
    log = tmp_path / "output.log"
    with (
        log.open("w") as file,
        subprocess.Popen([sys.executable, "-c", PARENT, str(START), code], stdout=file) as parent,
    ):
        wait_until_ready(log)
        parent.kill()
    while "stopped" not in log.read_text():
        time.sleep(0.02)
