"""`rl-lightning resume`, the forms of --ckpt_path, and settings that are changed on the way."""

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from test_main import ROOT, rows, state_of

from rl_lightning.callbacks.run_folder import FolderLock
from rl_lightning.cli.main import main

PPO = str(ROOT / "configs/ppo/cartpole.yaml")
FLAGS = [
    "--model.network.hidden_sizes=[8]",
    "--model.compile=false",
    "--model.batch_size=16",
    "--model.n_epochs=1",
    "--data.num_envs=2",
    "--data.rollout_steps=8",
    "--data.total_env_steps=256",
    "--data.env_steps_per_epoch=64",
    "--data.eval_episodes=1",
    "--data.test_episodes=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.logger=false",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
]


def dies(folder: Path, env_steps: int, in_test: bool = False) -> Path:
    """The run folder of a run under `folder` whose process killed itself, see `KillAt`."""
    settings = f'{{"env_steps": {env_steps}, "in_test": {str(in_test).lower()}}}'
    callback = f'--trainer.callbacks=[{{"class_path": "kill_at.KillAt", "init_args": {settings}}}]'
    command = [sys.executable, "-m", "rl_lightning", "fit", "-c", PPO, *FLAGS, callback]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    env = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    [run] = folder.glob("runs/*/*")
    return run


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    workplace = tmp_path_factory.mktemp("straight")
    with contextlib.chdir(workplace), contextlib.redirect_stdout(io.StringIO()):
        main(["fit", "-c", PPO, *FLAGS])
    [folder] = workplace.glob("runs/*/*")
    return folder


@pytest.fixture
def finished(straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to be changed, in the folder where the test is."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(straight, "runs/ppo-cartpole-v1/first"))


@pytest.fixture
def unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that was stopped at its second checkpoint of four, of 128 environment steps, with rows beyond it."""
    monkeypatch.chdir(tmp_path)
    folder = dies(tmp_path, 176).relative_to(tmp_path)
    assert state_of(folder / "checkpoints/last.ckpt")["rl_lightning"]["env_steps"] == 128
    assert float(rows(folder)[-1]["env_steps"]) == 160
    return folder


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The notes of the commands so far."""
    return [line.removeprefix("note: ") for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as end:
        main([*args])
    assert end.value.code not in (0, None)
    line = end.value.code if isinstance(end.value.code, str) else capsys.readouterr().err.strip().splitlines()[-1]
    assert "\n" not in line
    return line


def steps_of(folder: Path) -> list[float]:
    return [float(row["env_steps"]) for row in rows(folder)]


def test_a_killed_run_goes_on_in_its_folder_and_logs_the_rows_of_one_that_was_not_interrupted(
    unfinished: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (unfinished / "config.yaml").read_text()
    main(["resume", str(unfinished), "--trainer.callbacks=null"])
    assert "after 256 environment steps" in capsys.readouterr().out
    assert rows(unfinished) == rows(straight)
    assert (unfinished / "config-128.yaml").read_text() == before
    assert "KillAt" not in (unfinished / "config.yaml").read_text()
    assert len(list(Path("runs").glob("*/*"))) == 1
    names = {path.name for path in unfinished.iterdir()}
    assert names == {".lock", "checkpoints", "config-128.yaml", "config.yaml", "metrics.csv", "run.json"}


def test_a_run_killed_in_its_final_test_has_the_test_left_to_do(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = dies(tmp_path, 0, in_test=True).relative_to(tmp_path)
    assert "test/return_mean" not in rows(folder)[-1]
    main(["resume", str(folder), "--trainer.callbacks=null"])
    assert "after 256 environment steps" in capsys.readouterr().out
    assert rows(folder) == rows(straight)


def test_a_finished_run_says_so_and_how_to_go_on(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(SystemExit) as end:
        main(["resume", str(finished)])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert f"Run {finished} is finished, after 256 of 256 environment steps.\nTo go on: " in out
    assert out.strip().endswith(f"rl-lightning resume {finished} --data.total_env_steps=512")
    assert {path: path.read_bytes() for path in before} == before


def test_a_longer_run_keeps_its_rows_and_settings_and_its_networks_and_schedules_move_on(
    finished: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["resume", str(finished), "--data.total_env_steps=512"])
    assert said(capsys) == []
    assert rows(finished)[: len(rows(straight))] == rows(straight)  # with the final test of the shorter run
    assert steps_of(finished) == sorted(steps_of(finished))
    assert steps_of(finished)[-1] == 512
    kept, now = (yaml.safe_load((finished / f"{name}.yaml").read_text()) for name in ("config-256", "config"))
    assert (kept["data"]["init_args"].pop("total_env_steps"), now["data"]["init_args"].pop("total_env_steps")) == (
        256,
        512,
    )
    assert kept == now
    old, new = (state_of(run / "checkpoints/last.ckpt") for run in (straight, finished))
    assert all(not torch.equal(value, new["state_dict"][name]) for name, value in old["state_dict"].items())
    assert [group["lr"] for each in new["optimizer_states"] for group in each["param_groups"]] == pytest.approx(
        [1e-3 * 16 / 512] * 2
    )


def test_a_damaged_checkpoint_is_named_and_the_newest_one_that_is_whole_is_taken(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last, best = (finished / f"checkpoints/{name}.ckpt" for name in ("last", "best"))
    for name, path in (("older", best), ("newer", last)):
        state = state_of(path)
        state["rl_lightning"]["env_steps"] = {"older": 64, "newer": 192}[name]
        torch.save(state, finished / f"checkpoints/{name}.ckpt")
    best.unlink()
    last.write_bytes(last.read_bytes()[:5000])
    main(["resume", str(finished)])
    [line] = said(capsys)
    assert line.startswith(f"checkpoint '{last}' is no whole checkpoint: it was cut off")
    assert line.endswith(f". It goes on from '{finished}/checkpoints/newer.ckpt', of 192 environment steps")
    assert state_of(last)["rl_lightning"]["env_steps"] == 256


def test_a_run_without_a_checkpoint_that_can_be_read_is_refused(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in finished.glob("checkpoints/*"):
        path.write_bytes(b"")
    line = refused(capsys, "resume", str(finished))
    assert line.startswith(f"error: run '{finished}' has no checkpoint to go on from: checkpoint '")
    assert line.endswith(f"begin it anew with rl-lightning fit -c {finished}/config.yaml")
    shutil.rmtree(finished / "checkpoints")
    assert "has no checkpoint to go on from: begin it anew" in refused(capsys, "resume", str(finished))


def test_settings_that_win_are_named_if_the_run_is_another_one_by_them(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harmless = ["--data.eval_episodes=2", "--trainer.log_every_n_steps=2", "--data.total_env_steps=272"]
    main(["resume", str(finished), *harmless])
    assert said(capsys) == []
    rate = "--model.policy_optimizer.init_args.lr=0.01"
    main(["resume", str(finished), "--data.total_env_steps=288", "--model.gamma=0.9", rate])
    assert said(capsys) == [
        "goes on with model.gamma=0.9 (was 0.98), model.policy_optimizer.lr=0.01 (was 0.001): from here on it differs "
        "from a run that was not interrupted"
    ]
    group = state_of(finished / "checkpoints/last.ckpt")["optimizer_states"][0]["param_groups"][0]
    assert group["initial_lr"] == 0.01


@pytest.mark.parametrize(
    ("flags", "fragments"),
    [
        (["--data.num_envs=4", "--model.batch_size=32"], ["data.num_envs=4 is not allowed", "has 2"]),
        (["--seed_everything=7"], ["seed_everything=7 is not allowed", "has 0"]),
        (["--model.network.hidden_sizes=[9]"], ["model.network.hidden_sizes=[9] (was [8]) is not allowed with checkp"]),
        (["--data.env_id=Acrobot-v1"], ["observation space Box(4,) float32, this run has Box(6,) float32"]),
        (["--model=A2C"], ["of algorithm PPO, this run has A2C"]),
        (["--ckpt_path=best"], ["--ckpt_path=best is not allowed beside resume", "fit -c "]),
        (["--init_from=x.ckpt"], ["--init_from=x.ckpt is not allowed beside resume"]),
    ],
    ids=lambda value: value[0] if value[0].startswith("--") else "",
)
def test_settings_that_cannot_win_are_refused_with_both_values(
    finished: Path, flags: list[str], fragments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file() and path.name != ".lock"}
    if flags == ["--model=A2C"]:  # PPO's settings are not A2C's
        shutil.copy(ROOT / "configs/a2c/cartpole.yaml", "a2c.yaml")
        flags = ["-c", "a2c.yaml", *FLAGS[:2], *FLAGS[4:], "--data.env_steps_per_batch=16"]
    line = refused(capsys, "resume", str(finished), "--data.total_env_steps=512", *flags)
    for fragment in fragments:
        assert fragment in line
    assert {path: path.read_bytes() for path in before} == before


def test_a_new_run_from_the_checkpoint_of_another_is_told_of_changes_too(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["-c", str(finished / "config.yaml"), f"--ckpt_path={finished}", "--data.total_env_steps=272"]
    main(["fit", *more, "--model.gae_lambda=0.5"])
    [line] = said(capsys)
    assert line.startswith("goes on with model.gae_lambda=0.5 (was 0.8): ")
    [second] = {*finished.parent.iterdir()} - {finished}
    assert steps_of(second)[0] == 272
    assert f"ckpt_path: {finished}/checkpoints/last.ckpt" in (second / "config.yaml").read_text()
    main(["resume", str(second), "--data.total_env_steps=288"])
    assert steps_of(second)[-1] == 288


def test_ckpt_path_takes_a_run_or_one_of_its_checkpoints_by_name(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["-c", str(finished / "config.yaml")]
    (finished / "checkpoints/best.ckpt").unlink()
    state = state_of(finished / "checkpoints/last.ckpt")
    state["rl_lightning"]["env_steps"] = 64
    torch.save(state, finished / "checkpoints/best.ckpt")
    for given, env_steps in (("last", 256), ("best", 64), (str(finished), 256), (f"{finished}/checkpoints", 256)):
        main(["test", *config, f"--ckpt_path={given}"])
        assert re.search(rf"env_steps\s+│\s+{env_steps}\.0", capsys.readouterr().out), given


def test_a_checkpoint_that_is_not_there_is_answered_with_those_that_are(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["-c", str(finished / "config.yaml")]
    both = f"give {finished}/checkpoints/last.ckpt or {finished}/checkpoints/best.ckpt"
    line = refused(capsys, "test", *config, f"--ckpt_path={finished}/checkpoints/lost.ckpt")
    assert line == (
        f"error: checkpoint '{finished}/checkpoints/lost.ckpt' does not exist: give {finished}/checkpoints/best.ckpt "
        f"or {finished}/checkpoints/last.ckpt"
    )
    line = refused(capsys, "test", "-c", PPO, "--ckpt_path=last")
    assert line == (
        "error: ckpt_path='last' is not allowed without a run's config, which says where to look: give one with -c "
        f"RUN/config.yaml, or a file; runs that there are: {finished}"
    )
    line = refused(capsys, "test", *config, "--ckpt_path=lost")
    assert line == f"error: checkpoint 'lost' does not exist: runs that there are: {finished}"
    (finished / "checkpoints/best.ckpt").rename(finished / "checkpoints/other.ckpt")
    line = refused(capsys, "test", *config, "--ckpt_path=best")
    assert line == f"error: run '{finished}' has no checkpoint best.ckpt: {both.replace('best', 'other')}"


def test_resume_without_a_run_is_answered_with_those_that_there_are(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = f"runs that there are: {finished}"
    assert refused(capsys, "resume", "--data.total_env_steps=9").startswith("error: resume has no run: give its folder")
    for args in (["resume"], ["resume", "lost"], ["resume", str(finished.parent)]):
        assert refused(capsys, *args).endswith(there)
    shutil.rmtree("runs")
    assert refused(capsys, "resume", "lost") == "error: run 'lost' does not exist: there are none under runs/"


def test_a_run_that_is_in_use_is_refused_with_the_number_of_its_process(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        lock = FolderLock(finished)
        os.write(tell, b"1")
        signal.pause()
        lock.release()
    os.read(ready, 1)
    line = refused(capsys, "resume", str(finished), "--data.total_env_steps=272")
    assert line == (
        f"error: run folder '{finished}' is in use by process {child}: wait until that has ended, or stop it"
    )
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    main(["resume", str(finished), "--data.total_env_steps=272"])
    assert steps_of(finished)[-1] == 272


def test_a_run_whose_schedules_have_ended_for_good_is_refused_and_left_as_it_is(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file() and path.name != ".lock"}
    ended = [f"--model.{name}_scheduler.init_args.env_steps=256" for name in ("policy", "value")]
    line = refused(capsys, "resume", str(finished), "--data.total_env_steps=512", *ended)
    assert line == (
        "error: policy_scheduler=EnvStepsLR, value_scheduler=EnvStepsLR has come to rate 0 for the rest of the run, in "
        "which nothing would be learned: make it longer, or give an EnvStepsLR over the whole run"
    )
    assert {path: path.read_bytes() for path in before} == before


def test_help_tells_of_resume(capsys: pytest.CaptureFixture[str]) -> None:
    for args, text in ((["--help"], "resume"), (["resume", "--help"], "usage: rl-lightning resume RUN [--KEY=VALUE")):
        with pytest.raises(SystemExit) as end:
            main(args)
        assert end.value.code == 0
        assert text in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["resum"])
    assert "did you mean resume?" in capsys.readouterr().err
