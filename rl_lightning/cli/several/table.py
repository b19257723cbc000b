"""How the runs of several seeds have ended."""

import re
import signal
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from shlex import quote
from statistics import fmean, pstdev

from rl_lightning.callbacks.checkpoints import EXIT_CODES
from rl_lightning.cli.report import decimals, program_name
from rl_lightning.cli.several.group import Group

STOPPED = {*EXIT_CODES.values(), *(-number for number in EXIT_CODES)}  # exit codes of what was asked to stop
ERROR = re.compile(r"error: |[\w.]*(Error|Exception)(: |$)")  # our own, or the last of a traceback
LAST_LINES = 20  # of a log, in which an error is looked for


def table(group: Group, codes: Mapping[int, int | None]) -> str:
    """A line for each seed, the mean over seeds, why some have failed, and how to go on.

    Args:
        group: of the runs.
        codes: exit codes of the runs, by seed; None for one that waits for another time.
    """
    tests = {seed: group.test(seed) for seed, code in codes.items() if code == 0}
    lines = [("seed", "return", "time", "folder")]
    for seed, code in codes.items():
        test = tests.get(seed)
        result = _spread(test.mean, test.std) if test else outcome(code)
        time = str(timedelta(seconds=round(group.seconds[seed]))) if seed in group.seconds else ""
        lines.append((str(seed), result, time, group.run(seed).folder.name))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [f"{a:>{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}" for a, b, c, d in lines]
    if means := [test.mean for test in tests.values() if test]:
        text.append(f"Return {_spread(fmean(means), pstdev(means))} over {len(means)} of {len(codes)} seeds")
    for seed, code in codes.items():
        if code and outcome(code) == "failed":
            text.append(f"seed {seed} failed: {reason(code, group.log(seed))}\n  output    {group.log(seed)}")
    folder = quote(str(group.folder))
    text.append(f"Group folder: {group.folder}")
    if any(group.folder.glob("seed-*/wandb/offline-run-*")):
        text.append(f"  W&B       {program_name('wandb')} sync {folder}/seed-*/wandb/offline-run-*")
    if any(code != 0 for code in codes.values()):
        text.append(f"  resume    {program_name('rl-lightning')} resume {folder}")
    return "\n".join(text)


def _spread(mean: float, deviation: float) -> str:
    places = decimals(mean, deviation)
    return f"{mean:,.{places}f} ± {deviation:,.{places}f}"


def outcome(code: int | None) -> str:
    """How a run with this exit code has ended."""
    if code is None:
        return "waits"
    if code == 0:
        return "finished"
    return "stopped" if code in STOPPED else "failed"


def reason(code: int, log: Path) -> str:
    """What a run said last, an error if it said one; or the signal that killed it."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines[-LAST_LINES:] if ERROR.match(line)]
    return (errors or lines or [f"exit code {code}"])[-1]
