"""Reinforcement learning for people who use PyTorch Lightning.

Names are imported when they are asked for, so that an exported policy acts without Lightning: of `load_policy` and its
like alone, of all else together, since the command line and messages count on every learner being there.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from rl_lightning.policies import Policy, export_policy, load_policy
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
    "Policy",
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
    "export_policy",
    "load_policy",
    "make_env",
    "make_vec_env",
]
__version__ = "0.1.0"

LIGHT = {
    "errors": ("Divergence", "EnvironmentFault", "UsageError"),
    "policies": ("Policy", "export_policy", "load_policy"),
}
HOMES = {
    "algorithms.a2c": ("A2C",),
    "algorithms.actor_critic": ("ActorCritic",),
    "algorithms.base": ("Algorithm",),
    "algorithms.bridge": (
        "FactorizedBaseline",
        "InterpolatedPolicyGradient",
        "LikelihoodRatio",
        "QProp",
        "SteinControlVariate",
    ),
    "algorithms.ddpg": ("DDPG",),
    "algorithms.discrete_sac": ("DiscreteSAC",),
    "algorithms.dqn": ("DQN",),
    "algorithms.off_policy_critic": ("OffPolicyCritic",),
    "algorithms.ppo": ("PPO",),
    "algorithms.reinforce": ("REINFORCE",),
    "algorithms.sac": ("SAC",),
    "algorithms.sac_v2": ("SACv2",),
    "algorithms.soft_q": ("SoftQ",),
    "algorithms.td3": ("TD3",),
    "algorithms.trpo": ("TRPO",),
    "callbacks": ("EnvironmentInteraction", "EnvStepsProgressBar", "Freeze", "MetricsCSV", "PolyakAveraging"),
    "data": ("ReplayBuffer", "ReplayDataModule", "RolloutDataModule", "RolloutReplayDataModule"),
    "environments.make": ("make_env", "make_vec_env"),
    "exploration": ("ActionNoise", "EpsilonGreedy"),
    "networks": ("MLP", "PolicyAndValue"),
    "types": ("Episode", "Rollout", "Transition"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        return _room(name)
    for homes in (LIGHT, HOMES):
        if any(name in names for names in homes.values()):
            for home, names in homes.items():
                module = import_module(f"{__name__}.{home}")
                globals().update({one: getattr(module, one) for one in names})
    return globals()[name]


def _room(name: str) -> Any:
    """A module of the package, which plain imports of it need not name before."""
    try:
        if not name.startswith("_"):
            return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
