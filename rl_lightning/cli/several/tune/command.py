"""`rl-lightning tune`: the command line of a search."""

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from rl_lightning.callbacks.run_folder import FolderLock
from rl_lightning.cli.plain_parser import PlainParser
from rl_lightning.cli.report import program_name
from rl_lightning.cli.several.group import Check
from rl_lightning.cli.several.processes import available_cores
from rl_lightning.cli.several.tune.checks import Settings
from rl_lightning.cli.several.tune.plan import PRUNERS, Folder, Plan
from rl_lightning.cli.several.tune.space import read_space
from rl_lightning.cli.several.tune.sweeps import write_sweep
from rl_lightning.cli.shipped import config_path, spaces
from rl_lightning.errors import UsageError, require

if TYPE_CHECKING:
    from rl_lightning.cli.several.tune.study import Study

TUNE = (
    "Search for the settings with which a learner does best: Optuna proposes trials from the ones before, each has "
    "several seeds, and one that does worse than the median of the others is given up on its way."
)
EPILOG = "Every other --KEY=VALUE is a setting of all runs, as of `rl-lightning fit`, and is then not searched."
PACKAGES = ("optuna", "matplotlib")


def tune(args: Sequence[str], check: Check) -> None:
    """Search, go on with a search, or write a sweep of W&B; and say what was found.

    Args:
        args: of the command line, after `tune`.
        check: refuses what `fit` would refuse, and creates nothing.

    Raises:
        UsageError: whatever cannot work, before anything is created; no trial that was completed.
        SystemExit: a mistake in the command line, which has been printed; a signal, with its code.
    """
    given, flags = _parser().parse_known_args(args)
    if given.resume is not None:
        _go_on(given, flags, check)
        return
    require(bool(given.config), "config", None, "give the runs' config with -c FILE, or its name")
    require(given.space is not None, "space", None, f"give --space=FILE, or one of {', '.join(spaces())}")
    _check_flags(flags)
    space = read_space(given.space).without(flags)
    configs = [config_path(config) for config in given.config]
    seeds = _at_least_one("seeds", given.seeds, 3)
    if given.wandb_sweep is not None:
        for name in ("trials", "jobs", "pruner", "seed"):
            value, advice = getattr(given, name), "W&B decides that of a sweep; leave it out"
            require(value is None, name, value, advice)
        Settings(check, configs, flags).check(space)
        write_sweep(Path(given.wandb_sweep), space, given.config, flags, seeds)
        return
    check_installed()
    pruner = given.pruner or PRUNERS[0]
    require(pruner in PRUNERS, "pruner", pruner, f"give one of {', '.join(PRUNERS)}")
    trials = _at_least_one("trials", given.trials, 50)
    jobs = _at_least_one("jobs", given.jobs, len(available_cores()))
    seed = given.seed or 0
    require(seed >= 0, "seed", seed, "give 0 or more")
    settings = Settings(check, configs, flags)
    settings.check(space)
    steps, epoch = (settings.value(f"data.{key}") for key in ("total_env_steps", "env_steps_per_epoch"))
    epoch = epoch or max(1, steps // 20)  # as data understands null
    plan = Plan(space, flags, trials, seeds, jobs, pruner, seed, steps, epoch)
    folder = Folder(settings.run_dir.with_name(f"tune-{settings.run_dir.name}"))
    folder.make(configs)
    _search(folder, plan, settings)


def check_installed() -> None:
    """Refuse to search without the packages of the extra.

    Raises:
        UsageError: naming the package and the extra.
    """
    for package in PACKAGES:
        if find_spec(package) is None:
            raise UsageError(f'tune needs {package}, which is not installed: pip install "rl_lightning[tune]"')


def _parser() -> PlainParser:
    usage = "rl-lightning tune -c CONFIG --space SPACE [--KEY=VALUE ...], or rl-lightning tune --resume DIR"
    parser = PlainParser("rl-lightning tune", usage=usage, description=TUNE, epilog=EPILOG, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="append", metavar="CONFIG", help="of the runs: a file, or a name")
    parser.add_argument("--space", help=f"what is searched: a file, or one of {', '.join(spaces())}")
    parser.add_argument("--trials", type=int, metavar="N", help="how many; 50 by default")
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="runs of each trial, with the seeds 0, 1, ...; 3 by default"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="runs side by side; one for each core by default")
    parser.add_argument("--pruner", help=f"when a trial is given up: one of {', '.join(PRUNERS)}; median by default")
    parser.add_argument("--seed", type=int, metavar="N", help="of the search itself; 0 by default")
    parser.add_argument(
        "--resume", metavar="DIR", help="go on with the search in this folder; takes --trials beside it"
    )
    parser.add_argument("--wandb-sweep", metavar="FILE", help="write a sweep of W&B over the space, and search nothing")
    return parser


def _go_on(given: argparse.Namespace, flags: Sequence[str], check: Check) -> None:
    others = [f"--{key.replace('_', '-')}" for key, value in vars(given).items() if value is not None]
    beside = [*flags, *(flag for flag in others if flag not in ("--resume", "--trials"))]
    if beside:
        raise UsageError(f"{beside[0]} is not allowed beside --resume, which goes on with the search's own settings")
    check_installed()
    folder = Folder(Path(given.resume))
    plan = folder.read()
    trials = _at_least_one("trials", given.trials, plan.trials)
    require(trials >= plan.trials, "trials", trials, f"the search has {plan.trials}; give more, or leave it out")
    settings = Settings(check, [str(config) for config in folder.configs], plan.flags)
    _search(folder, plan._replace(trials=trials), settings)


def _search(folder: Folder, plan: Plan, settings: Settings) -> None:
    # Optuna takes a second to import, and may not be there
    from rl_lightning.cli.several.tune.drawings import draw
    from rl_lightning.cli.several.tune.search import search
    from rl_lightning.cli.several.tune.study import Study
    from rl_lightning.cli.several.tune.summary import advice, write_best

    go_on = f"{program_name('rl-lightning')} tune --resume {quote(str(folder.path))}"
    lock = FolderLock(folder.path)
    try:
        folder.write(plan)  # there may be more trials than before
        first = settings.params(plan.space)
        study = Study(folder.journal, plan, first)
        print(f"Search folder: {folder.path}\n{_plan_in_words(plan, study)}")
        print(
            "Trial 0 is the config as it stands" if first else "The config as it stands is not in the space", flush=True
        )
        try:
            search(folder, plan, study, lambda line: print(line, flush=True))
        except SystemExit:
            print(f"Stopped after {study.count_ended()} of {plan.trials} trials; go on: {go_on}")
            raise
        for trial in study.trials(study.RUNNING):
            print(f"trial {trial.number} has not ended: somebody stopped a run of it; go on: {go_on}", flush=True)
        write_best(folder, plan, study, settings)
        draw(folder.path, plan, study)
        print(advice(folder, plan, study))
    finally:
        lock.release()


def _plan_in_words(plan: Plan, study: "Study") -> str:
    searched = ", ".join(key.replace(".init_args", "") for key in plan.space.searched)
    ended, under_way = study.count_ended(), len(study.trials(study.RUNNING))
    done = f", {ended} of them done" if ended else ""
    done += f", {under_way} under way, with which it goes on" if under_way else ""
    seeds = f"{plan.seeds} seed{'s' * (plan.seeds > 1)}"
    return (
        f"{plan.trials} trials of {seeds} and {plan.env_steps:,} environment steps{done}\n"
        f"Runs side by side: {plan.jobs}\nSearched: {searched}"
    )


def _check_flags(flags: Sequence[str]) -> None:
    for flag in flags:
        if not flag.startswith("--") or "=" not in flag:
            raise UsageError(f"{flag!r} stands alone: settings are given as --KEY=VALUE, config files as -c FILE")
        if flag.startswith("--seed_everything"):
            raise UsageError(f"{flag} is not allowed: the runs of a search have the seeds 0, 1, ...; give --seeds=N")


def _at_least_one(name: str, given: int | None, default: int) -> int:
    value = default if given is None else given
    require(value >= 1, name, value, "give 1 or more")
    return value
