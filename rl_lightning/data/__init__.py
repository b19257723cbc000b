"""What algorithms learn from."""

from rl_lightning.data.base import EnvironmentDataModule
from rl_lightning.data.replay import ReplayBuffer, ReplayDataModule, ReplayStream
from rl_lightning.data.rollout import RolloutDataModule, RolloutStream, check_minibatches, shuffled

__all__ = [
    "EnvironmentDataModule",
    "ReplayBuffer",
    "ReplayDataModule",
    "ReplayStream",
    "RolloutDataModule",
    "RolloutStream",
    "check_minibatches",
    "shuffled",
]
