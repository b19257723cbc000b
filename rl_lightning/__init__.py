"""Reinforcement learning for people who use PyTorch Lightning."""

from rl_lightning.algorithms.a2c import A2C
from rl_lightning.algorithms.actor_critic import ActorCritic
from rl_lightning.algorithms.base import Algorithm
from rl_lightning.algorithms.bridge import (
    FactorizedBaseline,
    InterpolatedPolicyGradient,
    LikelihoodRatio,
    QProp,
    SteinControlVariate,
)
from rl_lightning.algorithms.ddpg import DDPG
from rl_lightning.algorithms.discrete_sac import DiscreteSAC
from rl_lightning.algorithms.dqn import DQN
from rl_lightning.algorithms.off_policy_critic import OffPolicyCritic
from rl_lightning.algorithms.ppo import PPO
from rl_lightning.algorithms.reinforce import REINFORCE
from rl_lightning.algorithms.sac import SAC
from rl_lightning.algorithms.sac_v2 import SACv2
from rl_lightning.algorithms.soft_q import SoftQ
from rl_lightning.algorithms.td3 import TD3
from rl_lightning.algorithms.trpo import TRPO
from rl_lightning.callbacks import EnvironmentInteraction, EnvStepsProgressBar, Freeze, MetricsCSV, PolyakAveraging
from rl_lightning.data import ReplayBuffer, ReplayDataModule, RolloutDataModule, RolloutReplayDataModule
from rl_lightning.environments.make import make_env, make_vec_env
from rl_lightning.errors import Divergence, EnvironmentFault, UsageError
from rl_lightning.exploration import ActionNoise, EpsilonGreedy
from rl_lightning.networks import MLP, PolicyAndValue
from rl_lightning.types import Episode, Rollout, Transition

__all__ = [
    "A2C",
    "DDPG",
    "DQN",
    "MLP",
    "PPO",
    "REINFORCE",
    "SAC",
    "TD3",
    "TRPO",
    "ActionNoise",
    "ActorCritic",
    "Algorithm",
    "DiscreteSAC",
    "Divergence",
    "EnvStepsProgressBar",
    "EnvironmentFault",
    "EnvironmentInteraction",
    "Episode",
    "EpsilonGreedy",
    "FactorizedBaseline",
    "Freeze",
    "InterpolatedPolicyGradient",
    "LikelihoodRatio",
    "MetricsCSV",
    "OffPolicyCritic",
    "PolicyAndValue",
    "PolyakAveraging",
    "QProp",
    "ReplayBuffer",
    "ReplayDataModule",
    "Rollout",
    "RolloutDataModule",
    "RolloutReplayDataModule",
    "SACv2",
    "SoftQ",
    "SteinControlVariate",
    "Transition",
    "UsageError",
    "make_env",
    "make_vec_env",
]
__version__ = "0.1.0"
