"""`rl-lightning fit --seeds=...`, and `rl-lightning resume` of what that has begun."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rl_lightning.callbacks.run_folder import FolderLock, check_free
from rl_lightning.cli.changes import HARMLESS
from rl_lightning.cli.plain_parser import PlainParser
from rl_lightning.cli.run_file import start_of
from rl_lightning.cli.run_report.facts import flat
from rl_lightning.cli.run_report.facts import settings as settings_of
from rl_lightning.cli.runs import FOLDER, make
from rl_lightning.cli.several.board import Board
from rl_lightning.cli.several.group import GROUP, Check, Checked, Group, group_in
from rl_lightning.cli.several.processes import Job, available_cores, side_by_side, this_program
from rl_lightning.cli.several.table import table
from rl_lightning.errors import UsageError, require

FORMS = "give how many, like 5 for seeds 0 to 4, or a range like 0..4, or a list like 0,3,7"


class Asked(NamedTuple):
    """A command line that asks for several seeds.

    Attributes:
        given: all of it.
        args: the same without `--seeds` and `--jobs`.
        seeds: as they were given; None for those of the group.
        jobs: how many to run at once; None where it does not say.
    """

    given: Sequence[str]
    args: list[str]
    seeds: str | None
    jobs: int | None


def asked_in(given: Sequence[str]) -> Asked | None:
    """What a command line asks of several seeds; None where it is of a single run, or none.

    Raises:
        UsageError: `--seeds` or `--jobs` where they mean nothing.
    """
    if not {"fit", "resume"} & {*given[:1]} or {"-h", "--help"} & {*given}:
        return None
    parser = PlainParser(f"rl-lightning {given[0]}", add_help=False, allow_abbrev=False)
    parser.add_argument("--seeds")
    parser.add_argument("--jobs")
    own, args = parser.parse_known_args(given)
    of_group = given[0] == "resume" and len(args) > 1 and (Path(args[1]) / GROUP).is_file()
    require(given[0] == "fit" or own.seeds is None, "seeds", own.seeds, "resume goes on with those that there are")
    several = of_group or own.seeds is not None
    advice = "one run has one process; give it with --seeds, or to resume the folder of several seeds"
    require(several or own.jobs is None, "jobs", own.jobs, advice)
    is_number = own.jobs is None or re.fullmatch("[1-9][0-9]{0,3}", own.jobs)
    require(bool(is_number), "jobs", own.jobs, "give how many runs to train at once, 1 or more")
    return Asked(given, args, own.seeds, own.jobs and int(own.jobs)) if several else None


def seeds_in(text: str) -> list[int]:
    """The seeds that `text` means.

    Raises:
        UsageError: none, one of them twice, or not numbers that a seed can be.

    >>> seeds_in("3"), seeds_in("2..4"), seeds_in("[0,3,7]")
    ([0, 1, 2], [2, 3, 4], [0, 3, 7])
    """
    text = text.replace(" ", "")
    if re.fullmatch("[0-9]+", text):
        first, last = 0, int(text) - 1
    elif ends := re.fullmatch(r"([0-9]+)\.\.([0-9]+)", text):
        first, last = int(ends[1]), int(ends[2])
    else:
        numbers = text[1:-1] if text[:1] + text[-1:] == "[]" else text
        require(bool(re.fullmatch("[0-9]+(,[0-9]+)*", numbers)), "seeds", text, FORMS)
        seeds = [int(number) for number in numbers.split(",")]
        require(max(seeds) < 2**32, "seeds", text, "a seed is at most 2**32 - 1")
        require(
            len({*seeds}) == len(seeds), "seeds", text, "one is there twice, and would be the same run; leave it out"
        )
        return seeds
    require(first <= last, "seeds", text, f"these are none; {FORMS}")
    require(last < 2**32, "seeds", text, "a seed is at most 2**32 - 1")
    require(last - first < 10_000, "seeds", text, "these are more than 10,000 runs; give fewer")
    return [*range(first, last + 1)]


def train_seeds(asked: Asked, check: Check) -> None:
    """Train a run for each seed, or go on with those that are unfinished; print how they ended.

    Args:
        asked: by the command line.
        check: refuses what would be refused of one run.

    Raises:
        UsageError: whatever would be refused of one run, and what several cannot have; then nothing has been created.
        SystemExit: with 1, a run has failed; with its code, a signal has come.
    """
    if any(arg.startswith("--seed_everything") for arg in asked.args):
        raise UsageError(
            "--seed_everything is not allowed beside several seeds, which are given by --seeds: leave it out"
        )
    folder = Path(asked.args[1]) if asked.seeds is None else _begun(asked, check).folder
    with _alone_in(folder):
        group = group_in(folder)
        if asked.seeds is None:
            check_free(group.run(seed).folder for seed in group.seeds)
            _change(group, asked, check)
        codes = _train(group)
    if any(codes.values()):
        sys.exit(1)


def _begun(asked: Asked, check: Check) -> Group:
    """A group that did not exist before."""
    seeds = seeds_in(str(asked.seeds))
    checked = check(asked.args)
    check_apart(checked)
    assert checked.folder is not None
    advice = "it is the folder of several seeds already; give another, or resume them"
    require(not (checked.folder / GROUP).exists(), FOLDER, str(checked.folder), advice)
    make(checked.folder)
    group = Group(checked.folder, seeds, checked.total_env_steps, asked.jobs, {}, [start_of(asked.given)])
    group.save(checked.settings)
    return group


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    lock = FolderLock(folder)
    try:
        yield
    finally:
        lock.release()


def _change(group: Group, asked: Asked, check: Check) -> None:
    """Give a group that goes on the settings that are asked for."""
    flags = asked.args[2:]
    if given := next((flag for flag in flags if flag.startswith(("--ckpt_path", "--init_from"))), None):
        raise UsageError(
            f"{given} is not allowed beside resume, where each run goes on from its own checkpoint: leave it out"
        )
    checked = check(["fit", "-c", str(group.settings), *flags])
    check_apart(checked)
    group.total_env_steps, group.jobs = checked.total_env_steps, asked.jobs or group.jobs
    _check_alike(group, checked.settings)
    begun = [seed for seed in group.seeds if group.run(seed).checkpoints() and not group.is_finished(seed)]
    for seed in begun[:1]:  # what is refused of one is refused of all
        check([*_resume(group, seed), *flags])
    group.starts.append(start_of(asked.given))
    group.save(checked.settings)


def _check_alike(group: Group, settings: dict[str, Any]) -> None:
    """Refuse settings that only some of the runs would have, because the others are finished."""
    finished = [seed for seed in group.seeds if group.is_finished(seed)]
    before, after = settings_of(group.settings), flat(settings)
    for key in sorted({*before, *after}) if finished else ():
        old, new = before.get(key), after.get(key)
        advice = f"seed {finished[0]} has finished with {old}; begin anew, or give more data.total_env_steps too"
        require(old == new or key.startswith(HARMLESS), key, new, advice)


def _train(group: Group) -> dict[int, int | None]:
    """Train all runs that are unfinished, and print how all have ended; return exit codes by seed."""
    codes = {seed: 0 if group.is_finished(seed) else None for seed in group.seeds}
    at_once = min(group.jobs or len(available_cores()), len(codes))  # where some are finished too: as many threads
    board = Board(group)
    try:
        with board.shown() as draw:
            todo = [seed for seed, code in codes.items() if code is None]
            for ended in side_by_side(_jobs(group, todo, board), at_once, draw):
                seed = int(ended.job.name)
                codes[seed] = ended.code
                group.seconds[seed] = group.seconds.get(seed, 0.0) + ended.seconds
                group.save()
                board.end(seed, ended.code)
    finally:
        print(table(group, codes))
    return codes


def check_apart(checked: Checked) -> None:
    """Refuse settings by which the runs of several seeds would get in each other's way, or leave nothing behind.

    Raises:
        UsageError: naming the setting.
    """
    trainer = checked.settings["trainer"]
    advice = "it leaves nothing behind to compare; try it with a single run"
    require(checked.folder is not None, "trainer.fast_dev_run", trainer["fast_dev_run"], advice)
    require(trainer["num_nodes"] == 1, "trainer.num_nodes", trainer["num_nodes"], "several seeds share one machine")
    advice = "its random numbers go on where they were, whatever the seed; give init_from for its networks"
    require(checked.settings["ckpt_path"] is None, "ckpt_path", checked.settings["ckpt_path"], advice)
    advice = "all seeds would write there; leave it out, each has its own run folder"
    for name in ("dirpath", "buffer_file"):
        for key, value in _found(checked.settings, name):
            require(value is None, key, value, advice)
    for key, value in _found(trainer["logger"], "id"):
        require(value is None, f"trainer.logger.{key}", value, "all seeds would be one run; leave it out")


def _found(settings: Any, name: str, place: str = "") -> Iterator[tuple[str, Any]]:
    """Settings that are called so, wherever they stand: their keys, as they are typed, and values."""
    inside = dict(enumerate(settings)) if isinstance(settings, list) else settings
    for key, value in inside.items() if isinstance(inside, dict) else ():
        inner = place if key == "init_args" else f"{place}.{key}".lstrip(".")
        if key == name:
            yield inner, value
        yield from _found(value, name, inner)


def _jobs(group: Group, seeds: Sequence[int], board: Board) -> Iterator[Job]:
    for seed in seeds:
        board.begin(seed)
        run = group.run(seed)
        if run.checkpoints():
            yield Job(str(seed), this_program(*_resume(group, seed)), group.log(seed))
        else:
            (run.folder / "metrics.csv").unlink(missing_ok=True)  # rows that will be logged again
            command = this_program("fit", "-c", str(group.settings), f"--seed_everything={seed}")
            yield Job(str(seed), command, group.log(seed), {FOLDER: str(run.folder)})


def _resume(group: Group, seed: int) -> list[str]:
    return ["resume", str(group.run(seed).folder), "-c", str(group.settings), f"--seed_everything={seed}"]
