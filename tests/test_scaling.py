"""Several processes and machines, as docs/scaling.md starts them; two machines are two launchers on the loopback."""

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_exact_resume import assert_same

ROOT = Path(__file__).parents[1]
QUICK = [
    "--trainer.strategy=ddp", "--trainer.accelerator=cpu", "--trainer.logger=false", "--model.compile=false",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--data.eval_episodes=2",
    "--data.test_episodes=2",
]  # fmt: skip
PPO = [
    "fit", "-c", str(ROOT / "configs/ppo/pendulum.yaml"), "--data.num_envs=2", "--data.rollout_steps=64",
    "--data.env_steps_per_batch=128", "--data.total_env_steps=1024", "--data.env_steps_per_epoch=512",
    "--model.normalize_observations=true", "--model.normalize_returns=true", *QUICK,
]  # fmt: skip
SAC = [
    "fit", "-c", str(ROOT / "configs/sac_v2/pendulum.yaml"), "--data.total_env_steps=120",
    "--data.env_steps_per_epoch=60", "--data.env_steps_per_batch=10", "--data.learning_starts=40",
    "--data.buffer_size=1000", "--data.batch_size=16", *QUICK,
]  # fmt: skip


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


def on_two_machines(folder: Path, *arguments: str) -> list[tuple[int, str]]:
    """Exit status and output of two launchers of one process each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    place = ["--master-addr=127.0.0.1", f"--master-port={port}"]
    program = ["-m", "rl_lightning", *arguments, "--trainer.num_nodes=2", "--trainer.devices=1"]
    machines = [
        subprocess.Popen(
            [*launcher, f"--node-rank={rank}", *place, *program],
            cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    printed = [machine.communicate(timeout=300)[0] for machine in machines]
    return [(machine.returncode, text) for machine, text in zip(machines, printed, strict=True)]


def on_one_machine(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What two processes that Lightning starts print, and the first one's exit status."""
    return subprocess.run(
        [sys.executable, "-m", "rl_lightning", *arguments, "--trainer.devices=2"],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_two_machines_learn_one_policy_by_one_exchange_for_each_gradient_step(tmp_path: Path) -> None:
    note = ["--trainer.callbacks=note_rank.NoteRank", f"--trainer.callbacks.folder={tmp_path}"]
    for code, text in on_two_machines(tmp_path, *PPO, *note):
        assert code == 0, text[:3000]
        assert "sync_dist" not in text
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for same in ("weights", "optimizers"):
        assert_same(first[same], second[same])
    batches = 1024 // (2 * 128)
    assert first["env_steps"] == second["env_steps"] == 1024
    assert first["gradient_steps"] == second["gradient_steps"] == batches * 128 // 64 * 10
    for name in ("normalizer.moments.0", "return_normalizer.moments"):
        assert first["weights"][f"networks.{name}.count"] == 1024  # each had half of them
    # all gradients and the KL divergence at once; Lightning asks with single numbers whether to stop
    exchanged = [numbers for numbers in first["exchanged"] if numbers > 1]
    assert exchanged == [first["parameters"] + 1] * first["gradient_steps"]

    done = on_one_machine(tmp_path, *PPO, *note)  # which averages in memory that its processes share
    assert done.returncode == 0, done.stderr
    on_one = torch.load(tmp_path / "1.pt", weights_only=True)
    assert not [numbers for numbers in on_one["exchanged"] if numbers > 1]
    for same in ("weights", "optimizers", "gradient_steps", "env_steps"):
        assert_same(first[same], on_one[same])


def test_a_run_on_two_machines_goes_on_with_each_ones_replay(tmp_path: Path) -> None:
    for code, text in on_two_machines(tmp_path, *SAC):
        assert code == 0, text[:3000]
    [run] = tmp_path.glob("runs/*/*")
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    stored = saved["ReplayDataModule"]
    assert [stored["buffer"]["filled_rows"], *(other["filled_rows"] for other in stored["others"])] == [60, 60]
    assert not torch.equal(stored["buffer"]["memory"], stored["others"][0]["memory"])
    for code, text in on_two_machines(tmp_path, "resume", str(run), "--data.total_env_steps=200"):
        assert code == 0, text[:3000]
    went_on = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert went_on["rl_lightning"]["env_steps"] == 200
    now = went_on["ReplayDataModule"]
    for before, after in zip([stored["buffer"], *stored["others"]], [now["buffer"], *now["others"]], strict=True):
        assert after["filled_rows"] == 100
        assert torch.equal(after["memory"][:60], before["memory"][:60])
    with (run / "metrics.csv").open() as lines:
        steps = [int(float(row["env_steps"])) for row in csv.DictReader(lines)]
    assert steps == sorted(steps)


@pytest.mark.parametrize("launcher", ["torchrun", "devices"])
def test_a_fault_of_one_process_ends_all_with_one_line_each(launcher: str, tmp_path: Path) -> None:
    arguments = [*PPO, "--data.env_id=broken_rank:BreaksInTheSecondProcess-v0", "--data.total_env_steps=1000000"]
    if launcher == "torchrun":
        codes, printed = zip(*on_two_machines(tmp_path, *arguments), strict=True)
        assert codes == (1, 1)
        lines = [line for text in printed for line in text.splitlines() if line.startswith("error: ")]
    else:
        done = on_one_machine(tmp_path, *arguments)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    lost, told = sorted(lines)
    assert lost.startswith("error: another process of this run has ended")
    assert told.startswith("error: environment 0 (BreaksInTheSecondProcess-v0) at its step 301 raised RuntimeError")
