"""The callbacks that no learner can run without."""

from collections.abc import Iterable, Sequence

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LearningRateMonitor

from rl_lightning.callbacks import EnvironmentInteraction, Products, Signals
from rl_lightning.callbacks.monitors import EnvStepsLearningRateMonitor


def of_every_learner() -> list[Callback]:
    """In their order: a signal is heard before environments open."""
    return [Signals(), EnvironmentInteraction(), Products()]


def lacking(present: Sequence[Callback], own: Iterable[Callback | None]) -> list[Callback]:
    """A learner's own callbacks, but for those that the trainer has already; the user's stay.

    Lightning's LearningRateMonitor gives its place to one that a resumed run calls no second time.

    Args:
        present: the trainer's.
        own: the learner's; None is none.
    """
    monitors = [EnvStepsLearningRateMonitor(each) for each in present if type(each) is LearningRateMonitor]
    needed = [mine for mine in own if mine is not None and not any(isinstance(each, type(mine)) for each in present)]
    return [*needed, *monitors]
