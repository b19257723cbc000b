"""Which kinds of actions and of data a learner takes."""

from collections.abc import Mapping

from rl_lightning.data.base import EnvironmentDataModule
from rl_lightning.data.rollout_replay import RolloutReplayDataModule
from rl_lightning.errors import UsageError, one_line
from rl_lightning.spaces import Actions, fault_of_actions, own_space
from rl_lightning.types import Space


def check_actions(space: Space, algorithm: str, kind: Actions | None, others: Mapping[str, Actions | None]) -> None:
    """Refuse an action space that an algorithm has no policy for.

    Args:
        space: as learners see it.
        algorithm: its name.
        kind: of actions that it has a policy for; None leaves that to the learner.
        others: likewise of all algorithms, by name.

    Raises:
        UsageError: naming those that have one.
    """
    if kind is not None and (fault := fault_of_actions(space, kind)):
        able = sorted(name for name, its in others.items() if its is not None and not fault_of_actions(space, its))
        instead = f", or one of {', '.join(able)}" if able else ""
        raise UsageError(
            f"action space {one_line(own_space(space))} is not supported by {algorithm}: {fault}; choose another "
            f"environment{instead}"
        )


def check_learns_from(data: object, algorithm: str, kind: type[EnvironmentDataModule], takes_critic: bool) -> None:
    """Refuse a DataModule that an algorithm cannot learn from.

    Args:
        data: the DataModule.
        algorithm: its name.
        kind: that it learns from.
        takes_critic: whether a critic can learn from replay beside its rollouts.

    Raises:
        UsageError: naming the right one.
    """
    replay_for_nothing = isinstance(data, RolloutReplayDataModule) and not takes_critic
    if not isinstance(data, kind) or replay_for_nothing:
        raise UsageError(
            f"datamodule={type(data).__name__} is not allowed with {algorithm}: it learns from a {kind.__name__}; give "
            "that as data"
        )
