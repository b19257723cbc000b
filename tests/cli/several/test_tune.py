"""`rl-lightning tune`: spaces, refusals, trials, pruning, a search that is stopped and goes on, sweeps of W&B."""

import itertools
import math
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace

from rl_lightning.algorithms.shared.ranges import RANGES
from rl_lightning.callbacks import WandbRun
from rl_lightning.callbacks.run_folder import FolderLock
from rl_lightning.cli.main import check, main
from rl_lightning.cli.several.group import Checked
from rl_lightning.cli.several.tune import command
from rl_lightning.cli.several.tune.checks import Settings
from rl_lightning.cli.several.tune.curves import Evaluations, evaluations_in, final_return, means_at
from rl_lightning.cli.several.tune.plan import Folder, Plan
from rl_lightning.cli.several.tune.space import Space, read_space, space_of
from rl_lightning.cli.several.tune.sweeps import sweep
from rl_lightning.cli.shipped import shipped, spaces
from rl_lightning.cli.wandb_runs import name_run, prepare_wandb
from rl_lightning.errors import UsageError
from rl_lightning.fast.settings import settings_of_wandb

GAMMA = "model.gamma"
LR = "model.policy_optimizer.init_args.lr"
SMALL = space_of({"model.gamma": {"min": 0.8, "max": 0.99}, "model.ent_coef": {"values": [0.0, 0.01]}})
QUICK = [
    "--data.total_env_steps=400", "--data.env_steps_per_epoch=200", "--data.num_envs=2", "--data.rollout_steps=5",
    "--data.env_steps_per_batch=100", "--data.eval_episodes=1", "--data.test_episodes=2", "--model.compile=false",
    "--model.network.hidden_sizes=[8]", "--trainer.accelerator=cpu", "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
]  # fmt: skip
BARE: dict[str, Any] = {
    "trainer": {"fast_dev_run": False, "num_nodes": 1, "limit_test_batches": None, "logger": False},
    "ckpt_path": None,
}


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
    as_they_stand = []
    for path in configs:
        settings = Settings(lambda args: Checked(Path("run"), settings_of(path), 0.0), [], [])  # noqa: B023
        assert all(settings.value(key) is not None for key in [*space.searched, *space.same])
        as_they_stand.append(settings.params(space))
    assert any(as_they_stand), "a search begins with the config as it stands"
    for key, domain in space.searched.items():
        allowed, _ = RANGES.get(key.removeprefix("model."), (lambda value: True, ""))
        assert all(allowed(value) for value in domain.ends()), key


def settings_of(config: Path) -> dict[str, Any]:
    return yaml.safe_load(config.read_text()) | BARE


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
        (
            {"model.gamma": {"min": 0.9, "max": 0.5}},
            "model.gamma.min=0.9 is not allowed: give less than max, which is 0.5",
        ),
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
        (["--space=a2c"], "config=None is not allowed: give the runs' config with -c FILE, or its name"),
        (base[:2], "space=None is not allowed: give --space=FILE, or one of a2c, "),
        ([*base, "--trials=0"], "trials=0 is not allowed: give 1 or more"),
        ([*base, "--pruner=mean"], "pruner='mean' is not allowed: give one of median, hyperband, none"),
        (
            [*base, "--seed_everything=3"],
            "--seed_everything=3 is not allowed: the runs of a search have the seeds 0, 1",
        ),
        ([*base, "stray"], "'stray' stands alone"),
        ([*base, "--wandb-sweep=a.yaml", "--jobs=2"], "jobs=2 is not allowed: W&B decides that"),
        (["--resume=none"], "resume='none' is not the folder of a search, it has no search.yaml"),
        (["--resume=none", "--seeds=2"], "--seeds is not allowed beside --resume"),
    ]:
        assert told in refusal(*args)
    Path("mine.yaml").write_text("model.gamma: {min: 1.5, max: 2.0}\n")
    assert (
        refusal("-c", "a2c/cartpole", "--space=mine.yaml") == "error: gamma=1.5 is not allowed: give a number in [0, 1]"
    )
    Path("mine.yaml").write_text("model.gama: {min: 0.5, max: 0.6}\n")
    with pytest.raises(SystemExit) as end:
        main(["tune", "-c", "a2c/cartpole", "--space=mine.yaml"])
    assert end.value.code == 2
    assert "--model.gama is not a setting of A2C: did you mean --model.gamma?" in capsys.readouterr().err
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    told = refusal(*base)
    assert told == 'error: tune needs optuna, which is not installed: pip install "rl_lightning[tune]"'
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_without_a_length_of_epochs_a_search_has_that_of_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "_search", lambda folder, plan, settings: plans.append(plan))
    Path("space.yaml").write_text("model.gamma: {values: [0.9, 0.99]}\n")
    plans: list[Plan] = []
    flags = ["--data.env_steps_per_epoch=null", "--data.total_env_steps=4000", "--trainer.logger=false"]
    main(["tune", "-c", "a2c/cartpole", "--space=space.yaml", *flags])
    assert (plans[0].env_steps, plans[0].env_steps_per_epoch) == (4000, 200)


def test_values_that_fit_takes_one_by_one_are_no_mistake_where_it_does_not_take_them_together():
    tried = []

    def checked(args: list[str]) -> Checked:
        tried.append(args[1:])
        if {"--a=1", "--b=1"} <= {*args}:
            raise UsageError("a and b together")
        return Checked(Path("run"), BARE, 0.0)

    Settings(checked, [], ["--c=1"]).check(space_of({"a": {"values": [0, 1, 2]}, "b": {"min": 0, "max": 1}}))
    untested = BARE | {"trainer": BARE["trainer"] | {"limit_test_batches": 0}}
    with pytest.raises(UsageError, match=r"trainer\.limit_test_batches=0 is not allowed"):
        Settings(lambda args: Checked(Path("run"), untested, 0.0), [], [])
    both = [["--a=0", "--b=0"], ["--a=1", "--b=1"], ["--a=2", "--b=1"]]
    assert tried == [["--c=1", *flags] for flags in ([], *both[:2], ["--a=1"], ["--b=1"], both[2])]


# What rows say


def test_configs_keep_their_order_in_the_folder_of_a_search_however_many_there_are(tmp_path: Path) -> None:
    given = [tmp_path / f"{number}.yaml" for number in range(12)]
    for number, config in enumerate(given):
        config.write_text(f"seed_everything: {number}\n")
    folder = Folder(tmp_path / "search")
    folder.make([str(config) for config in given])
    assert [config.read_text() for config in folder.configs] == [config.read_text() for config in given]


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


# Optuna's part


@pytest.fixture
def study_of(tmp_path: Path) -> Any:
    """Opens the study in the test's folder."""
    pytest.importorskip("optuna")
    from rl_lightning.cli.several.tune.study import Study

    return lambda plan, first=None: Study(tmp_path / "study.journal", plan, first)


def test_a_trial_is_given_up_at_the_first_evaluation_below_the_median_and_never_in_the_first_quarter(study_of) -> None:
    study = study_of(plan_of(pruner="median"))
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):  # what five trials have at every step: their median is 3
        number, _ = study.begin()
        assert study.given_up_at(number, {0: value, 100: value, 200: value, 300: value}) is None
        study.complete(number, [value], {})
    worse, _ = study.begin()
    assert study.given_up_at(worse, {0: -9.0}) is None
    assert study.given_up_at(worse, {0: -9.0, 100: 3.5, 200: -9.0}) is None, "its best so far counts"
    worst, _ = study.begin()
    assert study.given_up_at(worst, {0: 9.0 - 7.0, 100: 2.5, 200: 2.9, 300: 2.9}) == 100
    study = study_of(plan_of(pruner="median"))  # killed before it had noted that
    study.go_on(worst)
    study.go_on(worse)
    assert study.given_up_at(worst, {0: 2.0, 100: 2.5, 200: 2.9}) == 100
    study.prune(worst)
    study.fail(worse, "no more")
    assert [trial.number for trial in study.best(2)] == [4, 3]
    assert study.count_ended() == 7


def test_a_search_that_was_stopped_proposes_what_it_would_have_proposed(study_of, tmp_path: Path) -> None:
    def value(params: dict[str, Any]) -> float:
        return -((params["model.gamma"] - 0.9) ** 2) + params["model.ent_coef"]

    plan, first = plan_of(), {"model.gamma": 0.85, "model.ent_coef": 0.0}
    study, straight = study_of(plan, first), []
    for _ in range(14):  # more than those that are drawn at random
        number, params = study.begin()
        straight.append(params)
        study.complete(number, [value(params)], {})
    assert straight[0] == first
    assert len({params["model.gamma"] for params in straight}) == 14

    (tmp_path / "study.journal").unlink()
    stopped = []
    for number in range(14):
        study = study_of(plan, first)
        if number == 7:  # killed with a trial under way, and in writing
            killed, params = study.begin()
            (tmp_path / "study.journal.lock").touch()
            with (tmp_path / "study.journal").open("a") as journal:
                journal.write('{"op_code": 4, "wor')
            study = study_of(plan, first)
            assert [trial.number for trial in study.trials(study.RUNNING)] == [killed] == [7]
            assert study.go_on(7) == params
        else:
            killed, params = study.begin()
        stopped.append(params)
        study.complete(killed, [value(params)], {})
    assert stopped == straight


# Trials: real processes, of a program that only writes rows

PROGRAM = """
import os, signal, sys, time

flags = dict(arg.lstrip("-").partition("=")[::2] for arg in sys.argv[1:] if "=" in arg)
folder = os.environ.get("RL_LIGHTNING_RUN_FOLDER")
gamma, seed = float(flags.get("model.gamma", 1)), int(flags.get("seed_everything", 0))
if gamma == float(flags.get("stopped", -1)):
    os.kill(os.getpid(), signal.SIGTERM)
if sys.argv[1] == "resume" or gamma > 0.98:
    print("Traceback of something\\nRuntimeError: gamma is too high\\n")
    sys.exit(1)
with open(f"{folder}/metrics.csv", "w") as file:
    file.write("env_steps,val/return_mean,test/return_mean\\n")
    for step in (100, 200, 300, 400):
        file.write(f"{step},{100 * gamma + seed},\\n")
        file.flush()
        while step == 300 and "slow" in flags and gamma < float(flags["slow"]):
            time.sleep(0.01)  # until it is told to stop
    file.write(f"400,,{100 * gamma + seed}\\n")
"""


@pytest.fixture
def search_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Searches in the test's folder, with runs of `PROGRAM`; returns the lines that were said, and the study."""
    pytest.importorskip("optuna")
    from rl_lightning.cli.several.tune import search as module
    from rl_lightning.cli.several.tune.study import Study

    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    monkeypatch.setattr(module, "this_program", lambda *args: [sys.executable, "-I", "-S", str(program), *args])
    monkeypatch.setattr(module, "LOOK", 0.0)

    def run(plan: Plan) -> tuple[list[str], Any]:
        lines: list[str] = []
        folder = Folder(tmp_path)
        study = Study(folder.journal, plan)
        module.search(folder, plan, study, lines.append)
        return lines, study

    return run


def test_the_value_of_a_trial_is_the_mean_of_its_seeds_and_one_that_fails_does_not_end_the_search(search_with) -> None:
    space = space_of({"model.gamma": {"values": [0.5, 0.6, 0.99]}})
    lines, study = search_with(plan_of(space, trials=6, seeds=3, jobs=2))
    completed = {trial.params["model.gamma"]: trial for trial in study.best(6)}
    assert {gamma: trial.value for gamma, trial in completed.items()} == {0.5: 51.0, 0.6: 61.0}
    assert completed[0.5].user_attrs["returns"] == [50.0, 51.0, 52.0]
    failed = [line for line in lines if "failed" in line]
    assert failed
    assert {line.partition(": ")[2] for line in failed} <= {
        f"seed {seed}: RuntimeError: gamma is too high" for seed in range(3)
    }
    assert len(lines) == study.count_ended() == 6


def test_a_trial_that_does_worse_than_the_median_is_told_to_stop_on_its_way(search_with, tmp_path: Path) -> None:
    space = space_of({"model.gamma": {"min": 0.2, "max": 0.9}})
    lines, study = search_with(plan_of(space, trials=5, pruner="median"))
    median = sorted(trial.params["model.gamma"] for trial in study.best(5))[2]
    plan = plan_of(space, trials=12, pruner="median", flags=[f"--slow={median}"])  # slow ones never end by themselves
    lines, study = search_with(plan)
    assert len(lines) == 7
    for trial in study.trials()[5:]:
        if trial.params["model.gamma"] < median:
            assert f"trial {trial.number} pruned after 100 environment steps" in lines
            assert final_return(Folder(tmp_path).run(trial.number, 0) / "metrics.csv") is None
    assert any("pruned" in line for line in lines)
    assert any("reached" in line for line in lines)


def test_a_trial_whose_runs_have_all_ended_is_complete_however_low_it_was_and_later_ones_are_compared_with_it(
    search_with, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from rl_lightning.cli.several.tune import search as module

    monkeypatch.setattr(module, "LOOK", math.inf)  # all runs end before the first look
    space = space_of({"model.gamma": {"min": 0.2, "max": 0.9}})
    lines, study = search_with(plan_of(space, trials=9, pruner="median"))
    assert all("reached" in line for line in lines)
    for trial in study.best(9):
        assert trial.intermediate_values == dict.fromkeys((100, 200, 300), pytest.approx(100 * trial.params[GAMMA]))
    low = space_of({GAMMA: {"min": 0.05, "max": 0.1}})
    lines, _ = search_with(plan_of(low, trials=10, seeds=2, pruner="median"))  # one after the other
    assert lines == ["trial 9 pruned after 100 environment steps"]
    assert not Folder(tmp_path).run(9, 1).exists()


def test_a_trial_of_which_a_run_was_stopped_by_somebody_is_named_and_goes_on_at_the_next_start(
    search_with, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from rl_lightning.cli.several.tune import drawings

    monkeypatch.setattr(drawings, "draw", lambda *_: None)
    settings = Settings(lambda args: Checked(tmp_path, BARE, 0.0), [], [])
    plan = plan_of(space_of({GAMMA: {"values": [0.5, 0.6]}}), trials=4)
    _, study = search_with(plan._replace(trials=0))
    command._search(Folder(tmp_path), plan._replace(flags=["--stopped=0.5"]), settings)
    out = capsys.readouterr().out
    left = [trial.number for trial in study.trials(study.RUNNING)]
    assert left
    assert [line.partition(";")[0] for line in out.splitlines() if "has not ended" in line] == [
        f"trial {number} has not ended: somebody stopped a run of it" for number in left
    ]
    assert f"tune --resume {tmp_path}" in out
    command._search(Folder(tmp_path), plan, settings)
    out = capsys.readouterr().out
    assert f"{4 - len(left)} of them done, {len(left)} under way, with which it goes on" in out
    assert study.count_ended() == 4


def test_a_trial_that_was_under_way_goes_on_with_the_runs_that_are_missing(search_with, tmp_path: Path) -> None:
    from rl_lightning.cli.several.tune.study import Study

    plan = plan_of(space_of({"model.gamma": {"values": [0.5, 0.6]}}), trials=1, seeds=3)
    number, params = Study(Folder(tmp_path).journal, plan).begin()
    write_rows(Folder(tmp_path).run(number, 0), {400: 7.0}, test=7.0)  # has ended
    write_rows(Folder(tmp_path).run(number, 1), {100: 8.0})  # has no checkpoint: from its start
    lines, study = search_with(plan)
    gamma = params["model.gamma"]
    assert study.best(1)[0].user_attrs["returns"] == [7.0, 100 * gamma + 1, 100 * gamma + 2]
    assert lines == [f"trial 0 reached {(7.0 + 200 * gamma + 3) / 3:.1f} (7.0, {lines[0].partition('(7.0, ')[2]}"]
    checkpoint = Folder(tmp_path).run(1, 0) / "checkpoints/last.ckpt"
    plan = plan._replace(trials=2, seeds=1)
    Study(Folder(tmp_path).journal, plan).begin()
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    lines, _ = search_with(plan)
    assert lines == ["trial 1 failed: seed 0: RuntimeError: gamma is too high"]
    assert checkpoint.exists(), "the program is asked to resume, which this one cannot"


def test_a_signal_leaves_the_trial_under_way_for_another_time(search_with, monkeypatch: pytest.MonkeyPatch) -> None:
    from rl_lightning.cli.several.tune import search as module

    space = space_of({"model.gamma": {"values": [0.5, 0.6]}})
    looks = itertools.count()

    def look(metrics: Path) -> Evaluations:
        found = evaluations_in(metrics)
        if found.env_steps and next(looks) == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    monkeypatch.setattr(module, "evaluations_in", look)
    with pytest.raises(SystemExit) as end:
        search_with(plan_of(space, trials=2, flags=["--slow=0.9"]))
    assert end.value.code == 143
    lines, study = search_with(plan_of(space, trials=2))
    assert len(lines) == study.count_ended() == 2
    assert all("reached" in line for line in lines)


# The command


def test_a_small_search_leaves_a_config_that_runs_pictures_and_a_caution_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(
        "model.gamma: {values: [0.9, 0.99]}\n"
        f"{LR}: {{min: 1e-5, max: 1e-2, log: true}}\n"
        f"model.value_optimizer.init_args.lr: {{same_as: {LR}}}\n"
    )
    main(["tune", "-c", "a2c/cartpole", "--space=space.yaml", "--trials=2", "--seeds=1", "--jobs=2", *QUICK])
    [folder] = Path("runs").glob("a2c-cartpole-v1/tune-*")
    assert re.fullmatch(r"tune-\d{8}-\d{6}-[0-9a-f]{4}", folder.name)
    out = capsys.readouterr().out
    assert re.search(r"^mean return +-?\d+\.\d +-?\d+\.\d$", out, re.M)
    assert f"rl-lightning fit -c {folder}/best.yaml --seeds=1..5" in out
    assert re.search(r"^Caution: trial \d is the highest of 2, so its return is partly luck", out, re.M)
    for picture in ("history.png", "settings.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")

    first = yaml.safe_load((folder / "trial-0000/seed-0/config.yaml").read_text())
    assert first["model"]["init_args"]["gamma"] == 0.99, "the first trial is the config as it is"
    assert first["model"]["init_args"]["policy_optimizer"]["init_args"]["lr"] == 7e-4

    lock, before = FolderLock(folder), (folder / "search.yaml").read_text()  # as of a search that is under way
    assert "is in use by process" in refusal(f"--resume={folder}", "--trials=9")
    assert (folder / "search.yaml").read_text() == before
    lock.release()
    main(["tune", f"--resume={folder}", "--trials=3"])
    assert "3 trials of 1 seed and 400 environment steps, 2 of them done" in capsys.readouterr().out
    runs = [folder / f"trial-000{number}/seed-0" for number in range(3)]
    returns = {final_return(run / "metrics.csv"): run for run in runs}
    best = yaml.safe_load((folder / "best.yaml").read_text())
    its = yaml.safe_load((returns[max(returns)] / "config.yaml").read_text())
    assert best["model"] == its["model"]
    assert best["seed_everything"] == 1, "a seed that the search has not used"
    assert check(["fit", "-c", f"{folder}/best.yaml"]).settings["model"] == best["model"]


# W&B's sweeps


def test_the_command_line_of_an_agent_is_one_that_fit_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    space = space_of(
        {
            LR: {"min": 1e-5, "max": 1e-2, "log": True},
            "model.max_grad_norm": {"values": [0.5, None]},
            "model.normalize_advantage": {"values": [True, False]},
            "model.network.init_args.hidden_sizes": {"values": [[64, 64], [256]]},
            "data.rollout_steps": {"min": 5, "max": 10},
        }
    )
    written = yaml.safe_load(yaml.safe_dump(sweep(space, ["a2c/cartpole"], ["--data.num_envs=4"], seeds=2)))
    drawn = {
        key: {"value": its.get("min", its.get("values", [None])[-1])} for key, its in written["parameters"].items()
    }
    args = create_sweep_command_args({"args": drawn})["args"]
    assert f"--{LR}=1e-05" in args
    command = create_sweep_command(written["command"])
    assert command[:3] == ["${env}", "rl-lightning", "fit"]
    assert command[-1] == "${args}"
    settings = check([*command[2:-1], *args]).settings
    its = settings["model"]["init_args"]
    assert its["policy_optimizer"]["init_args"]["lr"] == 1e-5
    assert (its["max_grad_norm"], its["normalize_advantage"], its["network"]["init_args"]) == (
        None,
        False,
        {"hidden_sizes": [256], "activation": "tanh"},
    )
    assert settings["data"]["init_args"]["rollout_steps"] == 5
    assert settings["seed_everything"] == 1
    assert settings["trainer"]["logger"]["init_args"]["offline"] is False


def test_in_an_agent_a_run_keeps_the_id_that_the_agent_gives_and_names_no_project(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc123")
    monkeypatch.setenv("WANDB_RUN_ID", "x1y2z3")
    described = Namespace(class_path="rl_lightning.callbacks.WandbRun", init_args=Namespace(id=None, offline=True))
    prepare_wandb(described, Path("runs/a2c-cartpole-v1/20260101-120000-ab12"), is_new=True)
    assert described.init_args.id == "x1y2z3", "resumed later, the run goes on as the same W&B run"
    logger = WandbRun(id="x1y2z3")
    config = Namespace(
        model=Namespace(class_path="a.A2C", init_args=Namespace()),
        data=Namespace(init_args=Namespace(env_id="CartPole-v1")),
    )
    name_run(logger, Path("runs/a2c-cartpole-v1/20260101-120000-ab12"), config)
    settings = settings_of_wandb(logger)
    assert not {"id", "project", "entity"} & {*settings}
    assert settings["name"] == "20260101-120000-ab12"


def test_runs_of_two_searches_are_different_wandb_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    described = Namespace(class_path="rl_lightning.callbacks.WandbRun", init_args=Namespace(id=None, offline=True))
    prepare_wandb(described, Path("runs/a2c-e/tune-20260101-120000-ab12/trial-0003/seed-1"), is_new=True)
    assert described.init_args.id == "tune-20260101-120000-ab12-trial-0003-seed-1"
