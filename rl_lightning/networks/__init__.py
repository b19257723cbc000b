"""Networks: bodies and encoders, what each family of learners makes of them, distributions, running statistics."""

from rl_lightning.networks.mlp import MLP, NetworkCallable, WithEncoders
from rl_lightning.networks.off_policy import (
    CategoricalPolicy,
    DeterministicPolicy,
    DiscreteQNetwork,
    DiscreteTwinQ,
    QNetwork,
    SquashedGaussianPolicy,
    Temperature,
    TwinQ,
    ValueNetwork,
)
from rl_lightning.networks.policy_and_value import PolicyAndValue

__all__ = [
    "MLP",
    "CategoricalPolicy",
    "DeterministicPolicy",
    "DiscreteQNetwork",
    "DiscreteTwinQ",
    "NetworkCallable",
    "PolicyAndValue",
    "QNetwork",
    "SquashedGaussianPolicy",
    "Temperature",
    "TwinQ",
    "ValueNetwork",
    "WithEncoders",
]
