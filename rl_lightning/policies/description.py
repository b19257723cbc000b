"""What is said of a policy beside its weights, all of it data: in a checkpoint, and in an export's `policy.json`."""

import math
import platform
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from rl_lightning.errors import UsageError, one_line, require
from rl_lightning.policies.as_data import space_from_data, space_to_data
from rl_lightning.policies.network import PolicyNetwork
from rl_lightning.policies.policy import Policy, check_that_it_acts, policy_of
from rl_lightning.spaces import learners_actions
from rl_lightning.types import Space, State

Weights = Mapping[str, Tensor]


class Learner(Protocol):
    """What `export_policy` asks of a learner in memory."""

    def policy_network(self) -> PolicyNetwork:
        """What it acts by."""

    def policy_description(self) -> State:
        """What a checkpoint says of it."""


def describe(
    learner: nn.Module, find: Callable[[], PolicyNetwork], observation_space: Space, action_space: Space
) -> State:
    """Spaces and architecture of a policy, and where its weights are in the learner's `state_dict`.

    Args:
        learner: of the policy.
        find: its `policy_network`.
        observation_space: of the environment.
        action_space: the environment's own.

    Returns:
        The description. Of a network that data cannot describe it holds the reason, under `undescribed`.
    """
    names = {id(tensor): name for name, tensor in learner.state_dict(keep_vars=True).items()}
    about: State = {}
    try:
        about["observation_space"] = space_to_data(observation_space)
        about["action_space"] = space_to_data(action_space)
        network = find()
        about["network"] = network.to_data()
        about["weights"] = {name: names[id(own)] for name, own in network.state_dict(keep_vars=True).items()}
    except UsageError as error:
        about["network"] = {"undescribed": str(error)}
    return about


def plain(value: Any) -> Any:
    """A value as JSON can hold it; what it cannot is told in words."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return float(value) if math.isfinite(value) else str(value)
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case np.ndarray() | np.generic():
            return plain(value.tolist())
    return one_line(value)


def versions() -> dict[str, str]:
    """Of the packages that a policy was made with."""
    own = sys.modules[__name__.partition(".")[0]].__version__
    packages = {"rl_lightning": own, "torch": torch.__version__, "gymnasium": gym.__version__}
    return {**packages, "numpy": np.__version__, "python": platform.python_version()}


def spaces_of(description: State) -> tuple[Space, Space]:
    """The environment's observation and action space."""
    return space_from_data(description["observation_space"]), space_from_data(description["action_space"])


def network_of(description: State, weights: Weights, limit: int) -> PolicyNetwork:
    """The network that a description speaks of, with its weights.

    Args:
        description: from a file.
        weights: by the names of `PolicyNetwork.state_dict`.
        limit: bytes of the file that they came from; weights that claim more are refused.

    Raises:
        UsageError: a description that is none, or weights that are not of it.
    """
    observation_space, action_space = spaces_of(description)
    try:
        network = PolicyNetwork.from_data(description["network"], observation_space, learners_actions(action_space)[0])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, StopIteration) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UsageError(f"its network cannot be made of its description: {reason}") from error
    expected = network.state_dict()
    require(weights.keys() == expected.keys(), "weights", [*weights][:4], f"its network has {[*expected][:4]} ...")
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    require(claimed <= limit, "weights", f"{claimed:,} bytes", f"the file has {limit:,}")
    for name, tensor in weights.items():
        shape = tuple(expected[name].shape)
        require(tensor.shape == shape, name, tuple(tensor.shape), f"its network has shape {shape}")
        is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.is_floating_point()
        require(is_plain and bool(tensor.isfinite().all()), name, "no weights", "give finite real numbers")
    own = {name: tensor.detach().to(expected[name].dtype, copy=True) for name, tensor in weights.items()}
    network.load_state_dict(own, assign=True)
    return network.requires_grad_(False)


def check_description(description: Any, name: str) -> None:
    """Refuse what does not say whose policy it is.

    Raises:
        UsageError: what has other fields, or none.
    """
    try:
        training = description["training"]
        kinds = {str: description["algorithm"], dict: description["env_kwargs"], int: training["env_steps"]}
        assert all(isinstance(value, kind) for kind, value in kinds.items())
        assert isinstance(description["env_id"], str | None)
        assert isinstance(description["network"], dict)
        wrappers = description.get("wrappers", [])  # older ones know of none
        assert all(isinstance(each["class_path"], str) and isinstance(each["init_args"], dict) for each in wrappers)
        assert all(isinstance(value, float | int) for value in (training["evaluation"] or {}).values())
    except (KeyError, TypeError, AttributeError, AssertionError) as error:
        raise UsageError(f"{name!r} describes no policy: it is older, or damaged; train it anew") from error


def check_described(description: State, name: str) -> None:
    """Refuse a network that data cannot describe.

    Raises:
        UsageError: why it cannot leave its learner, and the way that is left.
    """
    if reason := description["network"].get("undescribed"):
        advice = "write it from Python, rl_lightning.export_policy(learner, to=DIR, format='onnx')"
        raise UsageError(f"policy {name!r} cannot leave its learner as data: {one_line(reason)}; {advice}")


def policy_from(path: str, description: State, weights: Weights, limit: int, seed: int | None) -> Policy:
    """A policy from what a file says, checked.

    Raises:
        UsageError: naming the file, where it is no policy's.
    """
    network, spaces = network_and_spaces(path, description, weights, limit)
    return check_that_it_acts(policy_of(network, description, *spaces, seed), path)


def network_and_spaces(
    path: str, description: State, weights: Weights, limit: int
) -> tuple[PolicyNetwork, tuple[Space, Space]]:
    """As of `network_of`, and of `spaces_of`.

    Raises:
        UsageError: naming the file, where it is no policy's.
    """
    try:
        return network_of(description, weights, limit), spaces_of(description)
    except (UsageError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise UsageError(f"policy {path!r} cannot be made: {one_line(error) or type(error).__name__}") from error
