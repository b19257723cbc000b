"""What algorithms learn from."""

from rl_lightning.data.base import EnvironmentDataModule
from rl_lightning.data.replay import ReplayBuffer, ReplayDataModule, ReplayStream
from rl_lightning.data.rollout import RolloutDataModule, RolloutStream, check_minibatches, shuffled
from rl_lightning.data.rollout_replay import RolloutReplayDataModule

__all__ = [
    "EnvironmentDataModule",
    "ReplayBuffer",
    "ReplayDataModule",
    "ReplayStream",
    "RolloutDataModule",
    "RolloutReplayDataModule",
    "RolloutStream",
    "check_minibatches",
    "shuffled",
]
