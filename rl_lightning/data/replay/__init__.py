"""Learning from replay."""

from rl_lightning.data.replay.buffer import ReplayBuffer
from rl_lightning.data.replay.datamodule import ReplayDataModule
from rl_lightning.data.replay.stream import ReplayStream

__all__ = ["ReplayBuffer", "ReplayDataModule", "ReplayStream"]
