"""Optuna's part of a search: what it proposes, when it gives a trial up, and the record of all trials."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from rl_lightning.cli.several.tune.plan import Plan
from rl_lightning.cli.several.tune.space import Choice, Range, Scalar
from rl_lightning.errors import UsageError, one_line

NAME = "tune"  # Hyperband divides trials into its brackets by the study's name and their numbers
REASON, RETURNS = "reason", "returns"  # what is noted of a trial: why it failed, and the returns of its seeds


class Study:
    """The trials of a search.

    Each is proposed from the ones before it and its own number, so a search that was stopped goes on as it would have
    gone.

    Args:
        journal: Optuna's record; begun if it is not there.
        plan: of the search.
        first: parameters of the first trial; None for one that is proposed.

    Raises:
        UsageError: the record cannot be read.
    """

    def __init__(self, journal: Path, plan: Plan, first: Mapping[str, Scalar] | None = None) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        _clean(journal)
        try:
            backend = JournalFileBackend(str(journal), lock_obj=JournalFileOpenLock(str(journal)))
            self._storage = JournalStorage(backend)
            self.optuna = optuna.create_study(
                storage=self._storage, study_name=NAME, direction="maximize", pruner=_pruner(plan), load_if_exists=True
            )
        except (ValueError, KeyError, OSError) as error:
            raise UsageError(f"{str(journal)!r} cannot be read ({one_line(error)}): begin a new search") from error
        self._plan = plan
        self._running: dict[int, Trial] = {}
        if first is not None and not self.optuna.get_trials(deepcopy=False):
            self.optuna.enqueue_trial(dict(first))

    RUNNING = TrialState.RUNNING

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Those that have begun, or those of them in a state, in their order."""
        kept = states or (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        return self.optuna.get_trials(deepcopy=False, states=kept)

    def count_ended(self) -> int:
        """How many trials have ended, however they did."""
        return len(self.trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))

    def begin(self) -> tuple[int, dict[str, Scalar]]:
        """Begin a trial: its number, and the value of each setting that is searched."""
        trial = self.optuna.ask()
        return trial.number, self._propose(trial)

    def go_on(self, number: int) -> dict[str, Scalar]:
        """Go on with a trial that was running when the search was stopped: the value of each setting."""
        study_id = self._storage.get_study_id_from_name(NAME)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        return self._propose(Trial(self.optuna, trial_id))

    def given_up_at(self, number: int, values: Mapping[int, float]) -> int | None:
        """The environment steps at which a trial is to be pruned; None where it goes on.

        Args:
            number: of the trial.
            values: intermediate ones by environment steps, ascending; those before the last one seen are passed over.
        """
        trial, seen = self._running[number], self._seen(number)
        for step, value in values.items():
            if step < max(seen, default=0):
                continue
            if step not in seen:  # it has been, where the search was stopped just then
                trial.report(value, step)
            if trial.should_prune():
                return step
        return None

    def complete(self, number: int, returns: Sequence[float], values: Mapping[int, float]) -> float:
        """End a trial with its value: the mean of the returns of its seeds.

        Args:
            number: of the trial.
            returns: of its seeds.
            values: as of `given_up_at`; trials to come are compared with them.
        """
        value = math.fsum(returns) / len(returns)
        trial, seen = self._running.pop(number), self._seen(number)
        for step in sorted(values.keys() - seen.keys()):
            trial.report(values[step], step)
        trial.set_user_attr(RETURNS, list(returns))
        self.optuna.tell(trial, value)
        return value

    def prune(self, number: int) -> None:
        """End a trial that has been given up."""
        self.optuna.tell(self._running.pop(number), state=TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """End a trial that failed."""
        trial = self._running.pop(number)
        trial.set_user_attr(REASON, reason)
        self.optuna.tell(trial, state=TrialState.FAIL)

    def best(self, count: int) -> list[FrozenTrial]:
        """Complete trials of the highest values, the highest first."""
        return sorted(self.trials(TrialState.COMPLETE), key=lambda trial: (-value_of(trial), trial.number))[:count]

    def _seen(self, number: int) -> dict[int, float]:
        """The intermediate values that have been noted of a trial."""
        return self.optuna.get_trials(deepcopy=False)[number].intermediate_values

    def _propose(self, trial: Trial) -> dict[str, Scalar]:
        self._running[trial.number] = trial
        seed = int(np.random.SeedSequence([self._plan.seed, trial.number]).generate_state(1)[0])
        self.optuna.sampler = TPESampler(seed=seed)
        return {key: _suggested(trial, key, domain) for key, domain in self._plan.space.searched.items()}


def _suggested(trial: Trial, key: str, domain: Range | Choice) -> Scalar:
    if isinstance(domain, Choice):
        return trial.suggest_categorical(key, domain.values)
    if isinstance(domain.low, int) and isinstance(domain.high, int):
        return trial.suggest_int(key, domain.low, domain.high)
    return trial.suggest_float(key, domain.low, domain.high, log=domain.log)


def value_of(trial: FrozenTrial) -> float:
    """The value of a trial that was completed."""
    assert trial.value is not None
    return trial.value


def _pruner(plan: Plan) -> BasePruner:
    if plan.pruner == "median":
        return MedianPruner(n_startup_trials=5, n_warmup_steps=plan.env_steps // 4)
    if plan.pruner == "hyperband":
        return HyperbandPruner(min_resource=plan.env_steps_per_epoch, max_resource=plan.env_steps)
    return NopPruner()


def _clean(journal: Path) -> None:
    """Clear away what a process that was killed in writing has left: half a line, behind which Optuna would write on
    and then read no more, and its lock, for which it would wait. The folder is this process's own.
    """
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if journal.is_file():
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with journal.open("r+b") as file:
                file.truncate(whole)
