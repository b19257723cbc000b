"""The program as a scheduler meets it: a signal ends it with a checkpoint, one line and its code."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rl_lightning.checkpoints import fault_of, read

ROOT = Path(__file__).parents[2]
PENDULUM = ROOT / "configs/sac/pendulum.yaml"
FLAGS = [
    "--model.network.hidden_sizes=[8]", "--model.compile=false", "--data.batch_size=8", "--data.eval_episodes=1",
    "--data.test_episodes=1", "--trainer.accelerator=cpu", "--trainer.logger=false", "--data.num_envs=1",
    "--data.env_steps_per_epoch=300", "--data.env_steps_per_batch=1", "--trainer.log_every_n_steps=100000",
    "--trainer.enable_progress_bar=false",
]  # fmt: skip


def start(
    folder: Path, *flags: str, before: Callable[[], None] | None = None, **variables: str
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rl_lightning", "fit", "-c", str(PENDULUM), *FLAGS, *flags]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
    )  # fmt: skip


def wait_for(folder: Path, pattern: str, run: subprocess.Popen[str]) -> Path:
    while not (found := list(folder.glob(f"runs/*/*/{pattern}"))):
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)
    return found[0]


def is_running(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_run_that_is_asked_to_stop_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    run = start(
        tmp_path, "--data.total_env_steps=1000000", "--data.learning_starts=200", TMPDIR="/dev/shm", HOME=str(tmp_path)
    )
    last = wait_for(tmp_path, "checkpoints/last.ckpt", run)
    run.send_signal(signal.SIGTERM)
    out, errors = run.communicate()
    assert run.returncode == 143, errors
    assert "Traceback" not in errors
    env_steps = read(last)["rl_lightning"]["env_steps"]
    relative = last.relative_to(tmp_path)
    assert f"SIGTERM after {env_steps} environment steps: saved {relative}; go on: rl-lightning resume" in out
    assert not list(last.parent.glob(".*"))


def test_a_signal_to_one_of_two_processes_ends_both_with_a_checkpoint(tmp_path: Path) -> None:
    run = start(
        tmp_path, "--data.total_env_steps=1000000", "--data.learning_starts=200", "--trainer.devices=2",
        "--trainer.strategy=ddp", "--data.eval_episodes=2", "--data.test_episodes=2", OMP_NUM_THREADS="1",
    )  # fmt: skip
    last = wait_for(tmp_path, "checkpoints/last.ckpt", run)
    [other] = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.kill(int(other), signal.SIGTERM)
    out, errors = run.communicate()
    assert run.returncode == 143, errors
    assert "Traceback" not in errors
    saved = read(last)
    assert f"SIGTERM after {saved['rl_lightning']['env_steps']} environment steps: saved " in out
    assert len(saved["ReplayDataModule"]["others"]) == 1
    while is_running(other):  # it has closed its output, so it is about to end
        time.sleep(0.02)


def test_random_steps_that_take_long_are_cut_short(tmp_path: Path) -> None:
    run = start(tmp_path, "--data.total_env_steps=100000000", "--data.learning_starts=90000000")
    wait_for(tmp_path, "config.yaml", run)
    time.sleep(3.0)  # wherever it then is, it may not take 90 million steps
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=500)
    assert run.returncode in (143, -signal.SIGTERM), errors
    if run.returncode == 143:
        [last] = tmp_path.glob("runs/*/*/checkpoints/last.ckpt")
        saved = read(last)
        assert saved["rl_lightning"]["gradient_steps"] == 0
        assert saved["ReplayDataModule"]["buffer"]["steps"] == saved["rl_lightning"]["env_steps"] < 90_000_000


def test_a_full_disk_ends_it_with_one_line_and_what_was_saved_before(tmp_path: Path) -> None:
    run = start(tmp_path, "--data.total_env_steps=1000000", "--data.learning_starts=200")
    last = wait_for(tmp_path, "checkpoints/last.ckpt", run)
    room = last.stat().st_size // 2
    resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (room, room))
    _, errors = run.communicate()
    assert run.returncode == 1
    line = errors.strip().splitlines()[-1]
    assert line.startswith("error: checkpoint 'runs/")
    assert "cannot be saved (File too large): raise the limit" in line
    assert "Traceback" not in errors
    assert fault_of(last) is None
    assert not list(last.parent.glob(".*"))
