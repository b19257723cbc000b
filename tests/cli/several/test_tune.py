"""`rl-lightning tune`: spaces, what is refused, trials, pruning, a search that is stopped and goes on, sweeps of W&B."""

import itertools
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from rl_lightning.algorithms.ranges import RANGES
from rl_lightning.cli import main as program
from rl_lightning.cli.main import check, main
from rl_lightning.cli.several.group import Checked
from rl_lightning.cli.several.processes import Job
from rl_lightning.cli.several.tune import command
from rl_lightning.cli.several.tune.checks import Settings
from rl_lightning.cli.several.tune.curves import Evaluations, evaluations_in, final_return, means_at
from rl_lightning.cli.several.tune.plan import Folder, Plan
from rl_lightning.cli.several.tune.space import Space, read_space, space_of
from rl_lightning.cli.several.tune.sweeps import sweep
from rl_lightning.cli.shipped import shipped, spaces
from rl_lightning.errors import UsageError

LR = "model.policy_optimizer.init_args.lr"
SMALL = space_of({"model.gamma": {"min": 0.8, "max": 0.99}, "model.ent_coef": {"values": [0.0, 0.01]}})
QUICK = [
    "--data.total_env_steps=400", "--data.env_steps_per_epoch=200", "--data.num_envs=2", "--data.rollout_steps=5",
    "--data.env_steps_per_batch=100", "--data.eval_episodes=1", "--data.test_episodes=2", "--model.compile=false",
    "--model.network.hidden_sizes=[8]", "--trainer.accelerator=cpu", "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
]  # fmt: skip


def plan_of(space: Space = SMALL, **others: Any) -> Plan:
    plan = Plan(space, [], trials=3, seeds=1, jobs=1, pruner="none", seed=0, env_steps=400, env_steps_per_epoch=100)
    return plan._replace(**others)


def refusal(*args: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["tune", *args])
    assert isinstance(end.value.code, str)
    assert "\n" not in end.value.code
    return end.value.code


# Spaces


@pytest.mark.parametrize("name", spaces())
def test_a_shipped_space_names_settings_of_its_learners_configs_and_values_in_their_ranges(name: str) -> None:
    space = read_space(name)
    configs = [path for config, path in shipped().items() if config.startswith(f"{name}/")]
    assert configs
    for path in configs:
        settings = Settings(lambda args: Checked(Path("run"), settings_of(path), 0.0), [], [])  # noqa: B023
        assert all(settings.value(key) is not None for key in [*space.searched, *space.same])
    for key, domain in space.searched.items():
        allowed, _ = RANGES.get(key.removeprefix("model."), (lambda value: True, ""))
        assert all(allowed(value) for value in domain.ends()), key


def settings_of(config: Path) -> dict[str, Any]:
    return {"trainer": {"fast_dev_run": False, "limit_test_batches": None}} | {
        key: value for key, value in yaml.safe_load(config.read_text()).items() if key != "trainer"
    }


def test_there_is_a_space_for_every_learner_that_has_configs_of_its_own():
    of_critics = {"q_prop", "stein", "factorized", "interpolated"}  # settings of A2C, PPO or TRPO
    assert {*spaces()} == {name.partition("/")[0] for name in shipped()} - of_critics


def test_the_flags_of_a_trial_have_ties_lists_and_small_numbers_as_the_command_line_takes_them():
    space = space_of(
        {
            LR: {"min": 1e-5, "max": 1e-2, "log": True},
            "model.value_optimizer.init_args.lr": {"same_as": LR},
            "model.network.init_args.hidden_sizes": {"values": [[64, 64], [256]]},
            "model.normalize_advantage": {"values": [True, False]},
        }
    )
    params = {LR: 1e-5, "model.network.init_args.hidden_sizes": "[64, 64]", "model.normalize_advantage": True}
    assert space.flags(params) == [
        f"--{LR}=1e-05",
        "--model.network.init_args.hidden_sizes=[64, 64]",
        "--model.normalize_advantage=true",
        "--model.value_optimizer.init_args.lr=1e-05",
    ]
    assert space_of(space.content()) == space


def test_a_setting_that_is_given_as_a_flag_is_not_searched_however_it_is_spelt():
    space = space_of({LR: {"min": 0.1, "max": 0.2}, "model.gamma": {"min": 0, "max": 1}, "model.b": {"same_as": LR}})
    rest = space.without(["--model.policy_optimizer.lr=0.1", "--model.gamm=1"])
    assert rest == Space({"model.gamma": space.searched["model.gamma"]}, {})
    with pytest.raises(UsageError, match="nothing is left to search"):
        rest.without(["--model.gamma=1"])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"model.gamma": {"min": 0.9}}, "model.gamma={'min': 0.9} is not allowed: give {values"),
        ({"model.gamma": [0.9, 1.0]}, "give {values"),
        ({"model.gamma": {"min": 0.9, "max": 0.5}}, "model.gamma.min=0.9 is not allowed: give less than max, which is 0.5"),
        ({"model.gamma": {"min": "a", "max": 0.5}}, "model.gamma.min='a' is not allowed: give a number"),
        ({"model.gamma": {"min": 0.0, "max": 1.0, "log": True}}, "a logarithm needs a number above 0"),
        ({"model.n_epochs": {"min": 1, "max": 10, "log": True}}, "ints are drawn evenly"),
        ({"model.gamma": {"values": []}}, "at least two"),
        ({"model.gamma": {"values": [0.9]}}, "at least two"),
        ({"model.gamma": {"values": [0.9, 0.9]}}, "no two of them alike"),
        ({"model.a": {"same_as": "model.b"}}, "model.a.same_as='model.b' is not allowed: it is none of"),
        ({"model.a.b": {"min": 0, "max": 1}, "model.a.init_args.b": {"min": 0, "max": 1}}, "twice"),
        ({"data.total_env_steps": {"min": 1, "max": 10}}, "could not be compared"),
        ({"seed_everything": {"values": [1, 2]}}, "could not be compared"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused_in_one_line(content: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told)) as refused:
        space_of(content)
    assert "\n" not in str(refused.value)


def test_a_file_of_a_space_is_read_as_configs_are_and_one_that_cannot_be_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"{LR}: {{min: 1e-5, max: 1e-2, log: true}}\n")
    assert read_space(str(path)).searched[LR].ends() == (1e-5, 1e-2)
    for text in ("", "- 1\n", "a: [\n", "a: {min: 0, max: 1}\na: {min: 0, max: 2}\n"):
        path.write_text(text)
        with pytest.raises(UsageError, match="space=") as refused:
            read_space(str(path))
        assert "\n" not in str(refused.value)
    with pytest.raises(UsageError, match=r"did you mean sac\?"):
        read_space("sacc")


# What is refused before anything is created


def test_what_cannot_be_searched_is_refused_in_one_line_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    base = ["-c", "a2c/cartpole", "--space=a2c"]
    for args, told in [
        (["--space=a2c"], "config=None is not allowed: give the runs' config with -c FILE"),
        (base[:2], "space=None is not allowed: give --space=FILE, or one of a2c, "),
        ([*base, "--trials=0"], "trials=0 is not allowed: give 1 or more"),
        ([*base, "--pruner=mean"], "pruner='mean' is not allowed: give one of median, hyperband, none"),
        ([*base, "--seed_everything=3"], "--seed_everything=3 is not allowed: the runs of a search have the seeds 0, 1"),
        ([*base, "stray"], "'stray' stands alone"),
        ([*base, "--trainer.limit_test_batches=0"], "trainer.limit_test_batches=0 is not allowed"),
        ([*base, "--wandb-sweep=a.yaml", "--jobs=2"], "jobs=2 is not allowed: W&B decides that"),
        (["--resume=none"], "resume='none' is not the folder of a search, it has no search.yaml"),
        (["--resume=none", "--seeds=2"], "--seeds is not allowed beside --resume"),
    ]:
        assert told in refusal(*args)
    Path("mine.yaml").write_text("model.gamma: {min: 0.5, max: 1.5}\nmodel.gae_lambda: {values: [0.5, 1.0]}\n")
    assert refusal("-c", "a2c/cartpole", "--space=mine.yaml") == "error: gamma=1.5 is not allowed: give a number in [0, 1]"
    Path("mine.yaml").write_text("model.gama: {min: 0.5, max: 0.6}\n")
    with pytest.raises(SystemExit) as end:
        main(["tune", "-c", "a2c/cartpole", "--space=mine.yaml"])
    assert end.value.code == 2
    assert "--model.gama is not a setting of A2C: did you mean --model.gamma?" in capsys.readouterr().err
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    told = refusal(*base)
    assert told == 'error: tune needs optuna, which is not installed: pip install "rl_lightning[tune]"'
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_values_that_fit_takes_one_by_one_are_no_mistake_where_it_does_not_take_them_together():
    tried = []

    def checked(args: list[str]) -> Checked:
        tried.append(args[1:])
        if {"--a=1", "--b=1"} <= {*args}:
            raise UsageError("a and b together")
        return Checked(Path("run"), {"trainer": {"fast_dev_run": False, "limit_test_batches": None}}, 0.0)

    Settings(checked, [], ["--c=1"]).check(space_of({"a": {"values": [0, 1, 2]}, "b": {"min": 0, "max": 1}}))
    assert tried[1:] == [[f"--c={1}", *flags] for flags in (
        ["--a=0", "--b=0"], ["--a=1", "--b=1"], ["--a=1"], ["--b=1"], ["--a=2", "--b=1"]
    )] or tried[-1] == ["--c=1", "--b=1"]  # fmt: skip


# What rows say


def write_rows(folder: Path, returns: dict[int, float], test: float | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{steps},{value}," for steps, value in returns.items()] + ([f"400,,{test}"] if test is not None else [])
    (folder / "metrics.csv").write_text("\n".join(["env_steps,val/return_mean,test/return_mean", *rows, ""]))


def test_evaluations_at_other_steps_are_compared_at_the_same_ones(tmp_path: Path) -> None:
    write_rows(tmp_path / "a", {100: 1.0, 200: 3.0, 300: 5.0})
    write_rows(tmp_path / "b", {150: 5.0, 250: 7.0})
    runs = [evaluations_in(tmp_path / name / "metrics.csv") for name in "ab"]
    assert means_at(runs, 100) == {200: (3.0 + 6.0) / 2}
    assert means_at(runs[:1], 100) == {100: 1.0, 200: 3.0, 300: 5.0}
    assert means_at([*runs, Evaluations([], [])], 100) == {}
    assert final_return(tmp_path / "a/metrics.csv") is None
    write_rows(tmp_path / "a", {100: 1.0}, test=-2.5)
    assert final_return(tmp_path / "a/metrics.csv") == -2.5
