"""The policy of a learner as it is exported: its network, and what is said of it."""

import math
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from rl_lightning.errors import require
from rl_lightning.networks.normalization import ObservationNormalizer
from rl_lightning.policies.description import describe, plain
from rl_lightning.policies.network import PolicyNetwork
from rl_lightning.types import Space, State


def network_of_act(
    learner: LightningModule, acts_by: str | None, normalizer: ObservationNormalizer | None
) -> PolicyNetwork:
    """The network that a learner acts by.

    Args:
        learner: that has it.
        acts_by: the attribute that holds it, as the class that defines `act` says.
        normalizer: of its observations, where it has none of its own.

    Raises:
        UsageError: where that class says nothing.
    """
    acts = next(cls for cls in type(learner).__mro__ if "act" in vars(cls))
    advice = f"say in {acts.__name__} which attribute is the network that its act acts by"
    require("acts_by" in vars(acts) and acts_by is not None, "acts_by", None, advice)
    assert acts_by is not None
    return PolicyNetwork.of(getattr(learner, acts_by), normalizer)


def describe_policy(
    learner: LightningModule, find: Callable[[], PolicyNetwork], spaces: tuple[Space, Space], trainer: Trainer | None
) -> State:
    """What an export needs to know of a learner's policy beside its weights; data alone.

    Args:
        learner: an `Algorithm`.
        find: its `policy_network`.
        spaces: of its observations and actions.
        trainer: that has set the learner up, if any.
    """
    observation_space, action_space = spaces
    data: Any = getattr(trainer, "datamodule", None)
    metrics = {name: float(value) for name, value in (trainer.callback_metrics if trainer else {}).items()}
    evaluated = {name: value for name, value in metrics.items() if name.startswith(("val/", "env_steps"))}
    evaluation = {name: value for name, value in evaluated.items() if math.isfinite(value)}
    own_action_space = getattr(data, "own_action_space", action_space)
    return {
        "algorithm": type(learner).__name__,
        "env_id": getattr(data, "env_id", None),
        "env_kwargs": plain(getattr(data, "env_kwargs", {})),
        "wrappers": plain(getattr(data, "described_wrappers", [])),
        **describe(learner, find, observation_space, own_action_space),
        "training": {
            "env_steps": learner.env_steps,
            "gradient_steps": learner.gradient_steps,
            "evaluation": evaluation or None,
        },
    }
