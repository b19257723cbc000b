"""The search itself: trials, each of several runs in fresh processes, until there are enough of them."""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rl_lightning.callbacks.run_folder import check_free
from rl_lightning.cli.report import decimals
from rl_lightning.cli.runs import FOLDER, Run
from rl_lightning.cli.several.processes import Job, side_by_side, this_program
from rl_lightning.cli.several.table import STOPPED, reason
from rl_lightning.cli.several.tune.curves import evaluations_in, final_return, means_at
from rl_lightning.cli.several.tune.plan import Folder, Plan
from rl_lightning.cli.several.tune.space import Scalar
from rl_lightning.cli.several.tune.study import RETURNS, Study

LOOK = 2.0  # seconds from one look at the rows of running trials to the next


class Runs:
    """The runs of a trial.

    Args:
        folder: of the search.
        plan: of the search.
        number: of the trial.
        params: what the trial tries.
    """

    def __init__(self, folder: Folder, plan: Plan, number: int, params: Mapping[str, Scalar]) -> None:
        self.number = number
        self._plan = plan
        self._configs = [f"--config={path}" for path in folder.configs]
        self._flags = [*plan.flags, *plan.space.flags(params)]
        self.folders = {seed: folder.run(number, seed) for seed in range(plan.seeds)}
        self.ended = {seed for seed, path in self.folders.items() if final_return(path / "metrics.csv") is not None}
        self.begun = set(self.ended)
        self.given_up_at: int | None = None  # environment steps
        self.fault: str | None = None  # why it has failed
        self.is_told = False  # whether those that run have been told to stop

    @property
    def is_over(self) -> bool:
        """Whether no more of its runs are wanted."""
        return self.given_up_at is not None or self.fault is not None

    @property
    def is_complete(self) -> bool:
        """Whether all of its runs have reached their end; then nothing is left to give up."""
        return self.fault is None and all(map(math.isfinite, self.returns()))

    @property
    def has_ended(self) -> bool:
        """Whether no run of it is under way, nor to come."""
        return self.ended == self.begun and (self.is_over or len(self.ended) == len(self.folders))

    def job(self, seed: int) -> Job:
        """The run of a seed: on with it, where a stopped search has left a checkpoint, else from its start."""
        self.begun.add(seed)
        folder = self.folders[seed]
        if Run(folder).checkpoints():
            return Job(self.name(seed), this_program("resume", str(folder)), self.log(seed))
        shutil.rmtree(folder, ignore_errors=True)
        command = this_program("fit", *self._configs, *self._flags, f"--seed_everything={seed}")
        return Job(self.name(seed), command, self.log(seed), {FOLDER: str(folder)})

    def name(self, seed: int) -> str:
        """What the processes know a run by."""
        return f"{self.number}/{seed}"

    def log(self, seed: int) -> Path:
        """What a run prints."""
        return self.folders[seed] / "output.log"

    def returns(self) -> list[float]:
        """Of the final tests, by seeds."""
        found = [final_return(path / "metrics.csv") for path in self.folders.values()]
        return [math.nan if value is None else value for value in found]

    def values(self) -> dict[int, float]:
        """Mean evaluations by environment steps, over the seeds that run side by side before the others.

        The last one is left out: it comes too late to save anything.
        """
        first = [self.folders[seed] for seed in range(min(self._plan.seeds, self._plan.jobs))]
        means = means_at([evaluations_in(path / "metrics.csv") for path in first], self._plan.env_steps_per_epoch)
        return {step: mean for step, mean in means.items() if step < self._plan.env_steps}

    def note(self, seed: int, code: int) -> None:
        """A run has ended."""
        if code in STOPPED and not self.is_over:  # by a signal to the search: it goes on another time
            self.begun.discard(seed)
            return
        self.ended.add(seed)
        if code == 0 and final_return(self.folders[seed] / "metrics.csv") is None:
            self.fault = self.fault or f"seed {seed} ended without a final test"
        elif code and not self.is_over:
            self.fault = f"seed {seed}: {reason(code, self.log(seed))}"


def search(folder: Folder, plan: Plan, study: Study, say: Callable[[str], None]) -> None:
    """Try until there are as many trials as planned.

    Args:
        folder: of the search.
        plan: of the search.
        study: with the trials so far.
        say: takes a line for each trial that has ended.

    Raises:
        SystemExit: by a signal, with its code; what was under way goes on when the search does.
        UsageError: a run of an interrupted search is still under way.
    """
    running: dict[int, Runs] = {}
    looked = time.monotonic()

    def trials() -> Iterator[Runs]:
        for trial in study.trials(study.RUNNING):
            yield Runs(folder, plan, trial.number, study.go_on(trial.number))
        while len(study.trials()) < plan.trials:
            yield Runs(folder, plan, *study.begin())

    def jobs() -> Iterator[Job]:
        for runs in trials():
            running[runs.number] = runs
            if runs.has_ended:  # the search was stopped just before it noted that
                end(runs)
            for seed in runs.folders:
                if seed not in runs.begun and not runs.is_over:
                    yield runs.job(seed)

    def end(runs: Runs) -> None:
        del running[runs.number]
        say(_end(study, runs))

    def look(runs: Runs) -> None:
        if not runs.is_over:
            runs.given_up_at = study.given_up_at(runs.number, runs.values())

    def unwanted() -> set[str]:
        nonlocal looked
        names = set[str]()
        if time.monotonic() - looked < LOOK:
            return names
        looked = time.monotonic()
        for runs in running.values():
            look(runs)
            if runs.is_over and not runs.is_told:
                runs.is_told = True
                names |= {runs.name(seed) for seed in runs.begun - runs.ended}
        return names

    left = [trial.number for trial in study.trials(study.RUNNING)]
    check_free(folder.run(number, seed) for number in left for seed in range(plan.seeds))
    for ended in side_by_side(jobs(), plan.jobs, unwanted=unwanted):
        number, seed = map(int, ended.job.name.split("/"))
        runs = running[number]
        runs.note(seed, ended.code)
        if not runs.is_complete:
            look(runs)  # the evaluations that came since the last look
        if runs.has_ended:
            end(runs)


def _end(study: Study, runs: Runs) -> str:
    """Note how a trial has ended, and say it."""
    number, returns = runs.number, runs.returns()
    if runs.given_up_at is not None and not runs.is_complete:
        study.prune(number)
        return f"trial {number} pruned after {runs.given_up_at:,} environment steps"
    if not runs.is_complete:
        fault = runs.fault or f"returns {returns} are not all finite"
        study.fail(number, fault)
        return f"trial {number} failed: {fault}"
    value, [best] = study.complete(number, returns, runs.values()), study.best(1)
    places = decimals(*returns, *best.user_attrs[RETURNS])
    is_best = "the best so far" if best.number == number else f"best: trial {best.number}, {best.value:.{places}f}"
    of_seeds = f" ({', '.join(f'{each:.{places}f}' for each in returns)})" if len(returns) > 1 else ""
    return f"trial {number} reached {value:.{places}f}{of_seeds}; {is_best}"
