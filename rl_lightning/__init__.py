"""Reinforcement learning for people who use PyTorch Lightning."""

from rl_lightning.algorithms.module import Algorithm
from rl_lightning.algorithms.sac import SAC
from rl_lightning.callbacks import EnvironmentInteraction, EnvStepsProgressBar, PolyakAveraging
from rl_lightning.data.datamodules import ReplayDataModule
from rl_lightning.data.replay import ReplayBuffer
from rl_lightning.envs import make_env, make_vec_env
from rl_lightning.errors import EnvironmentFault, UsageError
from rl_lightning.networks import MLP
from rl_lightning.types import Episode, Transition

__all__ = [
    "MLP",
    "SAC",
    "Algorithm",
    "EnvStepsProgressBar",
    "EnvironmentFault",
    "EnvironmentInteraction",
    "Episode",
    "PolyakAveraging",
    "ReplayBuffer",
    "ReplayDataModule",
    "Transition",
    "UsageError",
    "make_env",
    "make_vec_env",
]
__version__ = "0.1.0"
