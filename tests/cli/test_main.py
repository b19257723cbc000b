"""The program as its users meet it: runs, folders, reports, refusals."""

import contextlib
import csv
import io
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
import yaml
from jsonargparse import Namespace
from wandb_records import records_of
from website import Sentinel, Website

from rl_lightning import PPO, EnvironmentInteraction, UsageError
from rl_lightning.callbacks import WandbRun
from rl_lightning.cli import loggers
from rl_lightning.cli.loggers import keep_inside
from rl_lightning.cli.main import main
from rl_lightning.cli.wandb_runs import name_run
from rl_lightning.fast.settings import settings_of_wandb

ROOT = Path(__file__).parents[2]
CONFIGS = [path for path in sorted((ROOT / "configs").glob("*/*.yaml")) if path.parent.name != "sweeps"]
PENDULUM = str(ROOT / "configs/sac/pendulum.yaml")
SMALL = [
    "--model.network.hidden_sizes=[8]",
    "--model.compile=false",
    "--data.batch_size=8",
    "--data.eval_episodes=2",
    "--data.test_episodes=3",
    "--trainer.accelerator=cpu",
]
QUICK = [
    *SMALL,
    "--data.total_env_steps=450",
    "--data.learning_starts=200",
    "--data.env_steps_per_epoch=100",
    "--data.env_steps_per_batch=1",
    "--trainer.log_every_n_steps=20",
]


def test_help_lists_under_each_learner_and_datamodule_the_settings_that_the_configs_give_it(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--help=all"])
    sections = capsys.readouterr().out.split("\n\n")
    listed = {
        section.split(maxsplit=1)[0].rstrip(","): section.split("KEY:")[1].replace(",", " ").split()
        for section in sections
        if "--model.KEY:" in section or "--data.KEY:" in section
    }
    for path in CONFIGS:
        config = yaml.safe_load(path.read_text())
        for part in (config["model"], config["data"]):
            assert sorted(part["init_args"]) == sorted(listed[part["class_path"].split(".")[-1]])
    assert any(section.startswith("ReplayDataModule (for DDPG, DQN,") for section in sections)


def test_help_lists_init_from_among_the_programs_own_options_and_of_no_learner(capsys):
    for subcommand in ("fit", "test"):
        with pytest.raises(SystemExit):
            main([subcommand, "--help=all"])
        out = capsys.readouterr().out
        assert re.search(r"^  --init_from INIT_FROM\s+A run folder or checkpoint \(file or URL\) whose", out, re.M)
        assert len(re.findall(r"\binit_from\b", out)) == 1


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One real run in a process of its own: its folder and what it printed."""
    workplace = tmp_path_factory.mktemp("workplace")
    # a W&B service of this process would look for the run's folder from its own
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    done = subprocess.run(
        [sys.executable, "-m", "rl_lightning", "fit", "-c", PENDULUM, *QUICK],
        cwd=workplace,
        capture_output=True,
        text=True,
        timeout=500,
        stdin=subprocess.DEVNULL,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    [folder] = workplace.glob("runs/*/*")
    return folder, done.stdout


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if v and not k.startswith("time/")} for row in csv.DictReader(file)]


def state_of(checkpoint: Path) -> dict[str, Any]:
    return torch.load(checkpoint, weights_only=True)


def refusal(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The line that a command ends with when it refuses to run."""
    with pytest.raises(SystemExit) as end:
        main(list(args))
    assert end.value.code not in (0, None)
    assert not Path("runs").exists()
    if isinstance(end.value.code, str):
        assert "\n" not in end.value.code
        return end.value.code
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_runs_that_differ_in_seed_and_length_alone_have_one_group_and_the_users_names_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_TAGS"):
        monkeypatch.delenv(variable, raising=False)

    def named(gamma: float = 0.9, seed: int = 0, total: int = 100, **given: Any) -> dict[str, Any]:
        model = Namespace(class_path="a.SAC", init_args=Namespace(gamma=gamma))
        data = Namespace(class_path="b.Data", init_args=Namespace(env_id="E-v1", total_env_steps=total))
        logger = WandbRun(**given)
        name_run(logger, tmp_path / "sac-e-v1/1", Namespace(model=model, data=data, seed_everything=seed))
        return settings_of_wandb(logger)

    assert named()["group"] == named(seed=1, total=200)["group"] != named(gamma=0.8)["group"]
    assert [named(name="mine", group="ours", tags=["a"])[key] for key in ("name", "group", "tags")] == [
        "mine",
        "ours",
        ["a"],
    ]
    monkeypatch.setenv("WANDB_RUN_GROUP", "theirs")
    assert named()["group"] is None, "W&B takes the variable's"
    assert named()["name"] == "1"


def test_a_logger_whose_package_is_missing_is_refused_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logger = Namespace(class_path="lightning.pytorch.loggers.MLFlowLogger", init_args=Namespace())
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    with pytest.raises(UsageError) as refused:
        keep_inside(logger, Path("run"))
    assert str(refused.value) == (
        "trainer.logger='MLFlowLogger' is not allowed: it needs mlflow, which is not installed: pip install mlflow"
    )


def test_mlflow_keeps_its_database_and_artifacts_in_the_run_folder_unless_it_has_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda package: package)

    def kept(run_dir: Path, **given: str) -> dict[str, str]:
        settings = {"save_dir": "./mlruns", "tracking_uri": None, "artifact_location": None, "run_name": None} | given
        logger = Namespace(class_path="lightning.pytorch.loggers.MLFlowLogger", init_args=Namespace(**settings))
        keep_inside(logger, run_dir)
        return {key: value for key, value in logger.init_args.as_dict().items() if key != "save_dir"}

    first, second = tmp_path / "1", tmp_path / "2"
    its = kept(first)
    assert its == {
        "tracking_uri": f"sqlite:///{first}/mlflow.db",
        "artifact_location": f"file://{first}/mlruns",
        "run_name": "1",
    }
    first.mkdir()
    (first / "metrics.csv").touch()
    assert kept(second, **its) == kept(second), "a config of another run"
    at_a_server = {"tracking_uri": "http://127.0.0.1:5000", "artifact_location": "s3://all", "run_name": "mine"}
    assert kept(second, **at_a_server) == at_a_server


def test_a_run_folder_holds_config_metrics_checkpoints_and_the_offline_wandb_run(
    finished_run: tuple[Path, str],
) -> None:
    folder, _ = finished_run
    assert re.fullmatch(r"sac-pendulum-v1/\d{8}-\d{6}-[0-9a-f]{4}", f"{folder.parent.name}/{folder.name}")
    assert {path.name for path in folder.iterdir()} == {
        ".lock", "config.yaml", "metrics.csv", "run.json", "checkpoints", "wandb"
    }  # fmt: skip
    [start] = json.loads((folder / "run.json").read_text())["starts"]
    assert start["command"] == shlex.join(["rl-lightning", "fit", "-c", PENDULUM, *QUICK])
    assert start["python"] == platform.python_version()
    assert start["versions"]["torch"] == torch.__version__
    assert datetime.fromisoformat(start["time"]).utcoffset() == timedelta(0)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    [wandb_run] = folder.glob("wandb/offline-run-*/run-*.wandb")
    records = records_of(wandb_run)
    run = next(record.run for record in records if record.HasField("run"))
    assert (run.display_name, run.run_id, [*run.tags]) == (folder.name, folder.name, ["SAC", "Pendulum-v1"])
    assert re.fullmatch(r"sac-pendulum-v1-[0-9a-f]{6}", run.run_group)
    settings = [*run.config.update, *(item for record in records for item in record.config.update)]
    assert json.loads(next(item for item in settings if item.key == "data").value_json)["init_args"]["num_envs"] == 1
    assert not any("null" in item.value_json for item in settings)
    rows = [{item.key or item.nested_key[0] for item in record.history.item} for record in records]
    assert any("train/return" in row for row in rows)
    assert all("env_steps" in row for row in rows if row - {"_wandb"})
    [axis] = {record.metric.step_metric for record in records if record.metric.glob_name == "*"} - {
        "trainer/global_step"
    }
    assert axis == "env_steps"
    assert "total_env_steps: 450" in (folder / "config.yaml").read_text()


def test_a_run_shows_a_bar_of_its_environment_steps_and_then_one_of_its_test_episodes(
    finished_run: tuple[Path, str],
) -> None:
    _, out = finished_run
    training, testing = out.index("Training 100% "), out.index("Testing 100% ")
    assert training < out.index(" 450/450 env steps ") < testing < out.index(" 3/3 episodes ")


def test_rows_count_the_batches_of_all_epochs_and_no_warning_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.chdir(tmp_path)
    rare = "--trainer.log_every_n_steps=150"  # more than the 100 batches of an epoch
    main(["fit", f"--config={PENDULUM}", *QUICK, rare, "--trainer.logger=false"])
    with next(tmp_path.glob("runs/*/*/metrics.csv")).open() as file:
        rows = [int(float(row["env_steps"])) for row in csv.DictReader(file) if row["train/q_loss"]]
    assert rows == [350, 450]
    assert not [warning for warning in recwarn if "logging interval" in str(warning.message)]


def test_a_run_lists_its_networks_and_how_much_of_them_is_learned(finished_run: tuple[Path, str]) -> None:
    _, out = finished_run
    assert re.findall(r"│ +(\w+) +│ +\w+ +│ +[\d.]+ K? *│", out) == ["value", "target_value", "q", "policy"]
    v, q, policy = 3 * 8 + 8 + 9, 2 * (4 * 8 + 8 + 9), 3 * 8 + 8 + 2 * 9
    assert f"\n{v + q + policy} of {2 * v + q + policy} parameters are learned\n" in out
    assert "FLOPs" not in out


def test_every_row_carries_env_steps_as_its_step(finished_run: tuple[Path, str]) -> None:
    folder, _ = finished_run
    steps = [int(float(row["env_steps"])) for row in rows(folder)]
    assert steps == [int(row["step"]) for row in rows(folder) if "step" in row]
    training = [int(row["env_steps"]) for row in rows(folder) if "train/q_loss" in row]
    assert training == [*range(220, 450, 20), 450]
    evaluations = [int(float(row["env_steps"])) for row in rows(folder) if "val/return_mean" in row]
    assert evaluations == [300, 400, 450]
    assert [row["test/episode_length_mean"] for row in rows(folder) if "test/return_mean" in row] == ["200.0"]


def test_the_best_checkpoint_is_that_of_the_highest_evaluation(finished_run: tuple[Path, str]) -> None:
    folder, _ = finished_run
    best = max((float(r["val/return_mean"]), float(r["env_steps"])) for r in rows(folder) if "val/return_mean" in r)
    saved = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    assert saved["rl_lightning"]["env_steps"] == best[1]
    last = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert last["rl_lightning"]["env_steps"] == 450


def test_the_report_ends_with_commands_that_work(
    finished_run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = finished_run
    monkeypatch.chdir(shutil.copytree(folder.parents[2], tmp_path / "copy"))
    assert re.search(
        r"^Return -\d+\.\d ± \d+\.\d over 3 episodes of the final policy, after 450 env", out, re.MULTILINE
    )
    assert f"Run folder: {folder.relative_to(folder.parents[2])}" in out
    assert re.search(r"W&B +\S*wandb sync \S+/wandb/offline-run-\S+", out)
    resume, evaluate = re.findall(r"^  (?:resume|evaluate) +\S*rl-lightning (.*)$", out, re.MULTILINE)

    main(evaluate.split())
    assert "test/return_mean" in capsys.readouterr().out
    assert len(list(Path("runs").glob("*/*"))) == 1  # looking leaves nothing behind

    main([*resume.split(), "--data.total_env_steps=500"])
    assert "after 500 environment steps" in capsys.readouterr().out
    [again] = Path("runs").glob("*/*")  # in its own folder
    assert again == folder.relative_to(folder.parents[2])
    evaluations = [int(float(row["env_steps"])) for row in rows(again) if "val/return_mean" in row]
    assert evaluations == [300, 400, 450, 500]
    assert rows(again)[: len(rows(folder))] == rows(folder)
    ids = {re.fullmatch(r"offline-run-\d+_\d+-(.*)", path.name)[1] for path in again.glob("wandb/offline-run-*")}  # type: ignore[index]
    assert len(list(again.glob("wandb/offline-run-*"))) == 2
    assert ids == {folder.name}  # of one W&B run


def test_validate_reports_the_same_episodes_as_training_did(
    finished_run: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = finished_run
    monkeypatch.chdir(folder.parents[2])
    main(["validate", "-c", str(folder / "config.yaml"), f"--ckpt_path={folder / 'checkpoints/last.ckpt'}"])
    last = [float(row["val/return_mean"]) for row in rows(folder) if "val/return_mean" in row][-1]
    [shown] = re.findall(r"val/return_mean\s+│\s+(-?[\d.]+)", capsys.readouterr().out)
    assert float(shown) == pytest.approx(last, rel=1e-6)


def test_environments_in_processes_of_their_own_learn_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", "-c", PENDULUM, *QUICK, "--data.vectorization=async", "--data.num_envs=2", "--trainer.logger=false"])
    [folder] = tmp_path.glob("runs/*/*")
    assert float(rows(folder)[-1]["env_steps"]) == 450


def test_two_processes_share_the_counting_the_weights_and_the_report(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "rl_lightning",
            "fit",
            "-c",
            PENDULUM,
            *QUICK,
            "--trainer.devices=2",
            "--trainer.strategy=ddp",
            "--trainer.logger=false",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "over 3 episodes of the final policy, after 450 environment steps" in done.stdout
    [folder] = tmp_path.glob("runs/*/*")
    assert [int(float(row["env_steps"])) for row in rows(folder) if "val/return_mean" in row] == [300, 400, 450]


@pytest.fixture(scope="module")
def ppo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A short run of a shipped config whose learning rates go to 0 with it: its folder and what it printed."""
    length = ["--data.total_env_steps=2048", "--data.env_steps_per_epoch=512", "--data.test_episodes=2"]
    other = ["--model.compile=false", "--model.n_epochs=1", "--trainer.logger=false", "--trainer.accelerator=cpu"]
    workplace, printed = tmp_path_factory.mktemp("ppo"), io.StringIO()
    with contextlib.chdir(workplace), contextlib.redirect_stdout(printed):
        main(["fit", "-c", str(ROOT / "configs/ppo/cartpole.yaml"), *length, *other])
    [folder] = workplace.glob("runs/*/*")
    return folder, printed.getvalue()


def test_the_last_checkpoint_is_of_the_end_of_the_run_though_the_best_is_older(ppo_run: tuple[Path, str]) -> None:
    folder, _ = ppo_run
    evaluated = [float(row["val/return_mean"]) for row in rows(folder) if "val/return_mean" in row]
    assert len(evaluated) == 4
    best, last = (
        state_of(folder / f"checkpoints/{name}.ckpt")["rl_lightning"]["env_steps"] for name in ("best", "last")
    )
    assert last == 2048
    assert best == 512 * (1 + evaluated.index(max(evaluated)))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_ppo_learns_on_when_it_goes_on_by_the_command_that_fit_prints(
    ppo_run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = ppo_run
    assert "after 2,048 environment steps" in out
    [resume] = re.findall(r"^  resume +\S*rl-lightning (.*)$", out, re.MULTILINE)
    monkeypatch.chdir(shutil.copytree(folder.parents[2], tmp_path / "copy"))
    clip_ranges, present = [], PPO.present_clip_range
    monkeypatch.setattr(PPO, "present_clip_range", lambda self: clip_ranges.append(present(self)) or clip_ranges[-1])
    main(shlex.split(resume))
    assert [value.item() for value in clip_ranges] == pytest.approx([0.2 * k / 16 for k in range(7, 0, -1)] + [1e-6])
    assert "after 4,096 environment steps" in capsys.readouterr().out
    states = [state_of(run / "checkpoints/last.ckpt") for run in (folder, folder.relative_to(folder.parents[2]))]
    for state, total in zip(states, (2048, 4096), strict=True):  # the rates of the last batch, of 256 steps
        assert state["rl_lightning"]["env_steps"] == total
        rates = [group["lr"] for each in state["optimizer_states"] for group in each["param_groups"]]
        assert rates == pytest.approx([1e-3 * 256 / total] * 2)
    for name, value in states[0]["state_dict"].items():
        assert not torch.equal(value, states[1]["state_dict"][name]), name


def test_two_processes_share_running_statistics(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rl_lightning", "fit", "-c", str(ROOT / "configs/ppo/cartpole.yaml")]
    settings = ["rollout_steps=8", "num_envs=2", "total_env_steps=96", "env_steps_per_epoch=32", "test_episodes=3"]
    model = ["batch_size=8", "n_epochs=3", "normalize_observations=true", "normalize_returns=true", "compile=false"]
    flags = [*(f"--data.{setting}" for setting in settings), *(f"--model.{setting}" for setting in model)]
    processes = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.logger=false", "--trainer.accelerator=cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *flags, *processes], cwd=tmp_path, capture_output=True, text=True, timeout=500, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "after 96 environment steps" in done.stdout
    [last] = tmp_path.glob("runs/*/*/checkpoints/last.ckpt")
    state = torch.load(last, weights_only=True)["state_dict"]
    for name in ("normalizer.moments.0", "return_normalizer.moments"):
        assert state[f"networks.{name}.count"] == 96  # each process had half of them


def test_recorded_episodes_are_saved(finished_run: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = finished_run
    monkeypatch.chdir(folder.parents[2])
    main(["predict", "-c", str(folder / "config.yaml"), f"--ckpt_path={folder / 'checkpoints/best.ckpt'}", "--video"])
    [path] = Path("runs").glob("*/*/episodes.pt")
    env_steps = state_of(folder / "checkpoints/best.ckpt")["rl_lightning"]["env_steps"]
    assert {film.name for film in path.parent.glob("videos/*")} == {f"{env_steps}-0.mp4", f"{env_steps}-1.mp4"}
    episodes = torch.load(path, weights_only=True)
    assert len(episodes) == 2
    assert episodes[0]["obs"].shape == (201, 3)
    assert episodes[0]["action"].shape == (200, 1)
    assert episodes[0]["reward"].shape == (200,)
    assert not episodes[0]["terminated"]
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("value", ["true", "1"])
def test_a_fast_dev_run_of_predict_records_and_saves_nothing(
    finished_run: tuple[Path, str],
    value: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _ = finished_run
    monkeypatch.chdir(tmp_path)
    best = f"--ckpt_path={folder / 'checkpoints/best.ckpt'}"
    main(["predict", "-c", str(folder / "config.yaml"), best, f"--trainer.fast_dev_run={value}"])
    assert "Recorded 2 episodes, saved none: trainer.fast_dev_run leaves nothing behind" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


SHORT = [*QUICK, "--data.total_env_steps=220", "--trainer.logger=false"]


def test_a_checkpoint_of_weights_alone_is_evaluated_and_recorded_but_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", "-c", PENDULUM, *SHORT])
    [best] = tmp_path.glob("runs/*/*/checkpoints/best.ckpt")
    whole = torch.load(best, weights_only=True)
    for name in ("optimizer_states", "lr_schedulers", "callbacks", "ReplayDataModule"):
        del whole[name]
    torch.save(whole, best)
    capsys.readouterr()
    for stage, metric in (("validate", "val/return_mean"), ("test", "test/return_mean")):
        main([stage, "-c", PENDULUM, *SHORT, f"--ckpt_path={best}"])
        out = capsys.readouterr().out
        assert metric in out
        assert re.search(r"env_steps\s+│\s+220\.0", out)
    main(["predict", "-c", PENDULUM, *SHORT, f"--ckpt_path={best}"])
    assert "Recorded 2 episodes" in capsys.readouterr().out
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    line = refusal(capsys, "fit", "-c", PENDULUM, *SHORT, f"--ckpt_path={best}")
    assert line == f"error: ckpt_path={str(best)!r} is not allowed: it holds weights only; give it as init_from"


AT_REST = [f"--model.{network}_optimizer.init_args.lr=0" for network in ("value", "q", "policy")]


@pytest.mark.parametrize("way", ["--init_from=", "--model.init_from ", "config"])
def test_a_run_starts_from_the_networks_of_another_with_everything_else_fresh(
    finished_run: tuple[Path, str], way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = finished_run[0] / "checkpoints/last.ckpt"
    monkeypatch.chdir(tmp_path)
    if way == "config":
        Path("more.yaml").write_text(f"init_from: {last}")
        main(["fit", "-c", PENDULUM, "-c", "more.yaml", *SHORT, *AT_REST])
    else:
        main(["fit", "-c", PENDULUM, *SHORT, *AT_REST, *f"{way}{last}".split()])
    [folder] = tmp_path.glob("runs/*/*")
    old, new = state_of(last), state_of(folder / "checkpoints/last.ckpt")
    for name, value in old["state_dict"].items():
        if not name.startswith("target"):  # which follows even a network at rest
            assert torch.equal(value, new["state_dict"][name])
    assert new["rl_lightning"]["env_steps"] == 220
    assert new["rl_lightning"]["gradient_steps"] == 20
    assert new["ReplayDataModule"]["buffer"]["filled_rows"] == 220
    assert {state["step"].item() for each in new["optimizer_states"] for state in each["state"].values()} == {20}
    assert yaml.safe_load((folder / "config.yaml").read_text())["init_from"] == str(last)


def test_a_resumed_run_needs_no_more_what_it_started_from(
    finished_run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(finished_run[0] / "checkpoints/last.ckpt", "start.ckpt")
    parts = ["--init_parts=[policy]", "--data.buffer_from=start.ckpt"]
    main(["fit", "-c", PENDULUM, *SHORT, "--init_from=start.ckpt", *parts])
    Path("start.ckpt").unlink()
    [resume] = re.findall(r"^  resume +\S*rl-lightning (.*)$", capsys.readouterr().out, re.MULTILINE)
    main([*resume.split(), "--data.total_env_steps=240"])
    assert "after 240 environment steps" in capsys.readouterr().out


def shown_metrics(out: str) -> dict[str, str]:
    return dict(re.findall(r"(test/\w+)\s+│\s+(-?[\d.]+)", out))


def test_evaluation_takes_the_networks_of_init_from_as_those_of_ckpt_path(
    finished_run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    last = finished_run[0] / "checkpoints/last.ckpt"
    monkeypatch.chdir(tmp_path)
    shown = []
    for flags in ([f"--ckpt_path={last}"], [f"--init_from={last}"]):
        main(["test", "-c", PENDULUM, *SMALL, *flags])
        shown.append(shown_metrics(capsys.readouterr().out))
    assert shown[0].keys() == {"test/return_mean", "test/return_std", "test/episode_length_mean"}
    assert shown[0] == shown[1]
    assert list(tmp_path.iterdir()) == []


def test_networks_of_another_shape_are_refused_before_a_folder_exists(
    finished_run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    last = finished_run[0] / "checkpoints/last.ckpt"
    monkeypatch.chdir(tmp_path)
    line = refusal(capsys, "fit", "-c", PENDULUM, *SHORT, "--model.network.hidden_sizes=[9]", f"--init_from={last}")
    assert line == (
        f"error: init_from={str(last)!r} holds other networks than this run's: value.body.0.weight: [8, 3] there, "
        "[9, 3] here; value.body.0.bias: [8] there, [9] here; value.body.2.weight: [1, 8] there, [1, 9] here; "
        "target_value.body.0.weight: [8, 3] there, [9, 3] here; and 11 more; give the network it was trained with"
    )
    acrobot = str(ROOT / "configs/dqn/acrobot.yaml")
    line = refusal(capsys, "fit", "-c", acrobot, f"--init_from={last}")
    assert line == (
        f"error: checkpoint {str(last)!r} is of algorithm SAC, this run has DQN; of observation space Box(3,) float32, "
        "this run has Box(6,) float32; of action space Box(1,) float32, this run has Discrete(3): give a checkpoint of "
        "the same, or change env_id or model"
    )
    line = refusal(capsys, "fit", "-c", PENDULUM, *SHORT, f"--init_from={last}", "--init_parts=[polcy]")
    assert line == (
        "error: init_parts=['polcy'] is not allowed: SAC has the parts value, q, policy; give some of them, or leave "
        "it out for all"
    )
    line = refusal(capsys, "fit", "-c", PENDULUM, *SHORT, "--init_parts=[policy]")
    assert line == (
        "error: init_parts=['policy'] is not allowed: give init_from, whose parts they are, or leave it out"
    )


def test_parts_of_another_learners_run_folder_start_a_run_in_which_some_rest(
    finished_run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished_run[0]
    monkeypatch.chdir(tmp_path)
    flags = [*SHORT, f"--init_from={folder}", "--model.init_parts=[policy]", f"--data.buffer_from={folder}"]
    freeze = ["--trainer.callbacks+=rl_lightning.Freeze", "--trainer.callbacks.env_steps=230"]
    pendulum = str(ROOT / "configs/sac_v2/pendulum.yaml")
    line = refusal(capsys, "fit", "-c", pendulum, *flags, *freeze, "--trainer.callbacks.parts=[value]")
    assert line == "error: Freeze.parts='value' is not allowed: the parts that learn are q, policy, temperature"
    assert list(tmp_path.iterdir()) == []
    main(["fit", "-c", pendulum, *flags, *freeze, "--trainer.callbacks.parts=[policy]"])
    [new] = tmp_path.glob("runs/*/*")
    started, ended = state_of(folder / "checkpoints/best.ckpt"), state_of(new / "checkpoints/last.ckpt")
    assert ended["rl_lightning"]["algorithm"] == "SACv2"
    # with a filled buffer the first step is learned from already
    assert ended["rl_lightning"]["gradient_steps"] == ended["rl_lightning"]["env_steps"] == 220
    for name, value in started["state_dict"].items():
        if name.startswith("policy"):
            assert torch.equal(value, ended["state_dict"][name])
    seen = state_of(folder / "checkpoints/last.ckpt")["ReplayDataModule"]["buffer"]["filled_rows"]
    stored = ended["ReplayDataModule"]["buffer"]["filled_rows"]
    assert stored == seen + ended["rl_lightning"]["env_steps"]


def test_two_runs_with_one_seed_are_equal_to_the_bit(
    finished_run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = finished_run
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    main(["fit", *QUICK, "-c", PENDULUM, "--trainer.logger=false"])
    torch.set_num_threads(threads)
    [again] = tmp_path.glob("runs/*/*")
    assert rows(again) == rows(folder)
    one, two = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (folder, again))
    assert one["state_dict"].keys() == two["state_dict"].keys()
    assert all(torch.equal(one["state_dict"][name], two["state_dict"][name]) for name in one["state_dict"])


def parts_of(config: Path) -> tuple[str, ...]:
    """The classes of learner, data, estimator, and the environment of images: what goes on in one way."""
    settings = yaml.safe_load(config.read_text())
    model, data = settings["model"], settings["data"]
    estimator = model["init_args"].get("estimator") or {"class_path": ""}
    images = data["init_args"]["env_id"] if "atari" in data["init_args"]["env_id"] else ""
    return model["class_path"], data["class_path"], estimator["class_path"], images


GO_ON = {parts_of(config): config for config in CONFIGS}.values()  # one of each


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_config_runs_and_one_of_each_learner_learns_on_when_it_goes_on(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for package in packages_of_extras(yaml.safe_load(config.read_text())["data"]["init_args"]["env_id"]):
        pytest.importorskip(package)
    total, more, quick = shortened(config)
    quick += ["--trainer.log_every_n_steps=1", "--trainer.logger=false"]
    main(["fit", "-c", str(config), *quick, f"--data.total_env_steps={total}"])
    [folder] = tmp_path.glob("runs/*/*")
    last = rows(folder)[-1]
    assert total <= float(last["env_steps"]) <= total + 500  # a whole episode may go on
    assert "test/return_mean" in last
    assert any("train/value_loss" in row or "train/q_loss" in row for row in rows(folder))

    if config not in GO_ON:
        return
    before = state_of(folder / "checkpoints/last.ckpt")["state_dict"]
    main(["resume", str(folder), f"--data.total_env_steps={int(float(last['env_steps'])) + more}"])
    after = state_of(folder / "checkpoints/last.ckpt")["state_dict"]
    weights = [name for name in before if name.endswith(".weight") and not name.startswith("target")]
    assert [name for name in weights if torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("name", ["ppo/pong", "ppo/inverted_pendulum", "dqn/pong", "td3/pendulum"])
def test_a_shipped_config_runs_with_envpool_and_resumes_consistently(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    config = ROOT / f"configs/{name}.yaml"
    for package in ("envpool", *packages_of_extras(yaml.safe_load(config.read_text())["data"]["init_args"]["env_id"])):
        pytest.importorskip(package)
    total, more, quick = shortened(config)
    quick += ["--trainer.log_every_n_steps=1", "--trainer.logger=false", "--data.vectorization=envpool"]
    with caplog.at_level("INFO"):
        main(["fit", "-c", str(config), *quick, f"--data.total_env_steps={total}"])
    assert "Checkpoints resume consistently, not exactly" in caplog.text
    [folder] = tmp_path.glob("runs/*/*")
    assert total <= float(rows(folder)[-1]["env_steps"]) <= total + 500
    main(["resume", str(folder), f"--data.total_env_steps={total + more}"])
    assert float(rows(folder)[-1]["env_steps"]) >= total + more


def packages_of_extras(env_id: str) -> tuple[str, ...]:
    """What an environment needs that only an extra of this package installs."""
    if env_id.startswith("rl_lightning.atari:"):
        return ("ale_py", "cv2")
    return ("mujoco",) if "mujoco" in str(gym.spec(env_id).entry_point) else ()


def shortened(config: Path) -> tuple[int, int, list[str]]:
    """Environment steps, more of them, and flags of the shortest run of a config in which everything happens."""
    settings = yaml.safe_load(config.read_text())
    data, model = settings["data"]["init_args"], settings["model"]["init_args"]
    flags = ["--data.eval_episodes=1", "--data.test_episodes=1", "--data.eval_max_episode_steps=30"]
    flags.append("--model.network.hidden_sizes=[8]")
    if "compile" in model:
        flags.append("--model.compile=false")
    if settings["data"]["class_path"] == "rl_lightning.ReplayDataModule":
        steps = 4 * data["num_envs"]  # of an iteration
        pace = {"learning_starts": 200, "train_freq": 4, "env_steps_per_batch": steps, "env_steps_per_epoch": 2 * steps}
        pace["batch_size"] = min(8, data["buffer_size"])
        if data["env_id"].startswith("rl_lightning.atari:"):
            flags.append("--data.env_kwargs.max_episode_steps=30")
        again = 0 if data["save_buffer"] else 200  # random steps
        return 200 + 5 * steps, 6 * steps + again, [*flags, *(f"--data.{key}={value}" for key, value in pace.items())]
    most = 64
    if data["env_id"].startswith("rl_lightning.atari:"):  # images take long
        most = 32
        flags.append("--model.n_epochs=1")
    steps = data["rollout_steps"] and min(data["rollout_steps"], most)
    batch = steps * data["num_envs"] if steps else 20
    pace = [f"--data.rollout_steps={steps or 'null'}", f"--data.env_steps_per_batch={batch}"]
    if settings["data"]["class_path"] == "rl_lightning.RolloutReplayDataModule":
        pace.append("--data.replay_ratio=0.125")
    return 2 * batch, 2 * batch, [*flags, *pace, f"--data.env_steps_per_epoch={batch}"]


BAD_INPUT = [
    (["--data.env_id=Pendulun-v1"], ["env_id='Pendulun-v1'", "Pendulum-v1"]),
    (["--data.env_id=CartPole-v1"], ["action space Discrete(2)", "bounded Box"]),
    (["--data.env_kwargs.gg=3"], ["env_kwargs", "gg"]),
    (["--data.num_envs=0"], ["num_envs=0", "1 or more"]),
    (["--data.batch_size=0"], ["batch_size=0", "1 or more"]),
    (["--data.buffer_size=100"], ["buffer_size=100", "batch_size=256"]),
    (["--data.learning_starts=20000"], ["learning_starts=20000", "less than total_env_steps=20000"]),
    (["--data.replay_ratio=0.5"], ["replay_ratio=0.5", "whole number"]),
    (["--model.gamma=1.5"], ["gamma=1.5", "[0, 1]"]),
    (["--model.tau=0"], ["tau=0", "(0, 1]"]),
    (["--model.ent_coef=-1"], ["ent_coef=-1", "0 or more"]),
    (["--model.policy_optimizer.init_args.lr=-1"], ["policy_optimizer", "-1", "0 or more"]),
    (["--model.gama=0.9"], ["gama", "gamma"]),
    (["--trainer.max_epoch=3"], ["trainer.max_epoch", "trainer.max_epochs"]),
    (["--data.num_envs=two"], ["num_envs", "two", "int"]),
    (["--trainer.precision=16-mixed"], ["trainer.precision='16-mixed'", "bf16-mixed"]),
    (["--trainer.logger.init_args.offline=false"], ["offline=False", "wandb login"]),
    (["--init_from=nowhere.ckpt"], ["checkpoint 'nowhere.ckpt' does not exist: give a file"]),
    (["--model.init_from=nowhere.ckpt"], ["checkpoint 'nowhere.ckpt' does not exist: give a file"]),
    (["--model.init_from", "nowhere.ckpt"], ["checkpoint 'nowhere.ckpt' does not exist: give a file"]),
    (["--init_from"], ["--init_from has no value"]),
    (["--init_form=nowhere.ckpt"], ["did you mean --init_from?"]),
    (["--ckpt_path=nowhere.ckpt"], ["nowhere.ckpt", "does not exist"]),
]


@pytest.mark.parametrize(("flags", "fragments"), BAD_INPUT, ids=[" ".join(flags) for flags, _ in BAD_INPUT])
def test_bad_input_is_refused_with_one_line_before_a_folder_exists(
    flags: list[str],
    fragments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # no W&B login
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    line = refusal(capsys, "fit", "-c", PENDULUM, *flags)
    assert line.startswith("error: ")
    for fragment in fragments:
        assert fragment in line


def test_a_checkpoint_that_cannot_be_resumed_is_refused_before_a_folder_exists(
    finished_run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = finished_run
    monkeypatch.chdir(tmp_path)
    last = folder / "checkpoints/last.ckpt"
    line = refusal(capsys, "fit", "-c", PENDULUM, *QUICK, f"--ckpt_path={last}")
    assert "total_env_steps=450" in line
    assert "450 environment steps behind it" in line
    line = refusal(
        capsys, "fit", "-c", PENDULUM, *QUICK, "--data.env_id=MountainCarContinuous-v0", f"--ckpt_path={last}"
    )
    assert "observation space Box(3,) float32" in line
    Path("half.ckpt").write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    assert "is no whole checkpoint" in refusal(capsys, "test", "-c", PENDULUM, "--ckpt_path=half.ckpt")


class Mine(EnvironmentInteraction):
    """A user's own, which replaces the learner's."""


class MineByAnotherName(EnvironmentInteraction):
    """One whose state Lightning keeps under a name of its own."""

    state_key = "steps"


@pytest.mark.parametrize("kind", [Mine, MineByAnotherName])
def test_a_finished_run_with_a_users_own_interaction_is_not_resumed_either(
    kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["fit", "-c", PENDULUM, *SHORT, f"--trainer.callbacks={__name__}.{kind.__name__}"]
    main(command)
    [last] = tmp_path.glob("runs/*/*/checkpoints/last.ckpt")
    assert "EnvironmentInteraction" not in torch.load(last, weights_only=True)["callbacks"]
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    line = refusal(capsys, *command, f"--ckpt_path={last}")
    assert "data.total_env_steps=220 is not allowed" in line
    assert "220 environment steps behind it" in line


def test_a_run_resumes_from_a_url_that_is_asked_once(
    finished_run: tuple[Path, str],
    website: Website,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _ = finished_run
    monkeypatch.chdir(tmp_path)
    shutil.copy(folder / "checkpoints/last.ckpt", website.folder)
    settings = ["-c", str(folder / "config.yaml"), "--data.total_env_steps=500", "--trainer.logger=false"]
    main(["fit", *settings, f"--ckpt_path={website.url}/last.ckpt"])
    assert "after 500 environment steps" in capsys.readouterr().out
    [resumed] = Path("runs").glob("*/*")
    assert [int(float(row["env_steps"])) for row in rows(resumed) if "val/return_mean" in row] == [500]
    assert website.asked == ["/last.ckpt"], "what has been checked is what is read"


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_url_with_no_checkpoint_or_with_code_is_refused_before_a_folder_exists(
    finished_run: tuple[Path, str],
    website: Website,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refusal(capsys, command, "-c", PENDULUM, *SMALL, f"--ckpt_path={website.url}/nowhere.ckpt")
    assert line.startswith(f"error: checkpoint '{website.url}/nowhere.ckpt' cannot be fetched: HTTP Error 404")
    saved = torch.load(finished_run[0] / "checkpoints/last.ckpt", weights_only=True)
    torch.save({**saved, "hyper_parameters": Sentinel(tmp_path / "made")}, website.folder / "code.ckpt")
    line = refusal(capsys, command, "-c", PENDULUM, *SMALL, f"--ckpt_path={website.url}/code.ckpt")
    assert "holds more than tensors and primitives" in line
    assert not Path("made").exists()


def test_an_environment_that_fails_stops_the_run_with_its_place_and_leaves_the_checkpoint_intact(
    tmp_path: Path,
) -> None:
    (tmp_path / "fragile.py").write_text(
        "import gymnasium as gym\n"
        "from gymnasium.envs.classic_control.pendulum import PendulumEnv\n"
        "class Fragile(PendulumEnv):\n"
        "    steps = 0\n"
        "    def step(self, action):\n"
        "        self.steps += 1\n"
        "        if self.steps == 180:\n"
        "            raise OSError('sensor lost')\n"
        "        return super().step(action)\n"
        "gym.register('Fragile-v0', Fragile, max_episode_steps=20)\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "rl_lightning",
            "fit",
            "-c",
            PENDULUM,
            *QUICK,
            "--data.env_id=fragile:Fragile-v0",
            "--data.num_envs=2",
            "--trainer.logger=false",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "error: environment 0 (Fragile-v0) at its step 180 raised OSError: sensor lost; mend it, or let the run "
        "go on with a new one: data.max_env_restarts=N"
    )
    [last] = tmp_path.glob("runs/*/*/checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["rl_lightning"]["env_steps"] == 300


def test_a_killed_run_leaves_a_checkpoint_to_resume_from(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rl_lightning", "fit", "-c", PENDULUM, *SMALL, "--trainer.logger=false"]
    pace = ["--data.learning_starts=50", "--data.env_steps_per_epoch=50", "--data.env_steps_per_batch=1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        [*command, *pace], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    deadline = time.monotonic() + 120
    # until the second checkpoint replaces the first: one is whole, whenever the process dies
    while not (found := list(tmp_path.glob("runs/*/*/checkpoints/last.ckpt"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    written = found[0].stat().st_mtime_ns
    while found[0].stat().st_mtime_ns == written and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    steps = torch.load(found[0], weights_only=True)["rl_lightning"]["env_steps"]
    resumed = subprocess.run(
        [*command, *pace, f"--ckpt_path={found[0]}", f"--data.total_env_steps={steps + 60}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        env=environment,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert f"after {steps + 60:,} environment steps" in resumed.stdout
