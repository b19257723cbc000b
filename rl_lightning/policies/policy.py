"""A trained policy as a function of NumPy arrays, from the observations of an environment to its actions."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from rl_lightning.errors import UsageError, require
from rl_lightning.policies.network import PolicyNetwork
from rl_lightning.spaces import learners_actions, to_numpy, to_tensor, zeros_of
from rl_lightning.types import Space, State

Act = Callable[[Any, bool], NDArray[Any]]
"""Observations [B, *obs_shape], and whether the likeliest is meant, to the environment's actions [B, *action_shape]."""


class Policy:
    """A trained policy, to be had from `load_policy`. It needs neither Lightning nor an environment.

    >>> policy = load_policy("exported")  # doctest: +SKIP
    >>> action = policy(obs)  # doctest: +SKIP

    Args:
        description: what `policy.json` says of it.
        observation_space: of the environment.
        action_space: the environment's own.
        act: what it does.
        network: that it acts by; None where that is a graph of ONNX, which cannot be sampled.

    Attributes:
        description: algorithm, environment, spaces, network and training, as data.
        observation_space: of the environment that it was trained in.
        action_space: likewise, with the environment's own bounds.
    """

    def __init__(
        self,
        description: State,
        observation_space: Space,
        action_space: Space,
        act: Act,
        network: PolicyNetwork | None = None,
    ) -> None:
        self.description, self.observation_space, self.action_space = description, observation_space, action_space
        self.network, self._act = network, act

    def __repr__(self) -> str:
        return f"Policy({self.description['algorithm']}, {self.description['env_id']})"

    def __call__(self, obs: Any, deterministic: bool = True) -> Any:
        """Act.

        Args:
            obs: one observation of the environment, or a batch [B, *obs_shape] of them; for a Dict space a dict, or a
                tuple where the environment has a Tuple in its place.
            deterministic: the likeliest action, as evaluation takes it; else a sample.

        Returns:
            The action in the environment's own scale and dtype, or a batch [B, *action_shape]; of a Discrete a number.

        Raises:
            UsageError: observations of other shapes, not finite, or out of a Discrete space's range; or a sample asked
                of a policy that has but one action for a state.
        """
        if not deterministic:
            has_samples = self.network is not None and self.network.is_stochastic
            advice = f"the policy of {self.description['algorithm']} has one action for each state; leave it out"
            require(has_samples, "deterministic", deterministic, advice if self.network else "a graph has no samples")
        batch, is_one = _batched(obs, self.observation_space)
        action = self._act(batch, deterministic).astype(self.action_space.dtype, copy=False)
        return action[0] if is_one else action

    def initial_state(self) -> State:
        """What a policy with a memory begins an episode with; the policies so far have none."""
        return {}

    def step(self, obs: Any, state: State, deterministic: bool = True) -> tuple[Any, State]:
        """Act, and carry what is remembered on to the next step: the action and the state to give then."""
        return self(obs, deterministic), state


def policy_of(
    network: PolicyNetwork, description: State, observation_space: Space, action_space: Space, seed: int | None
) -> Policy:
    """The policy of a network with its weights.

    Args:
        network: in eval mode.
        description: of the policy.
        observation_space: of the environment.
        action_space: the environment's own.
        seed: of its samples; None draws one.
    """
    generator = Generator()
    generator.seed() if seed is None else generator.manual_seed(seed)
    _, to_environment = learners_actions(action_space)

    def act(obs: Any, deterministic: bool) -> NDArray[Any]:
        with torch.inference_mode():
            action = to_numpy(network(to_tensor(obs, observation_space), deterministic, generator))
        return action if to_environment is None else to_environment(action)

    return Policy(description, observation_space, action_space, act, network)


def check_that_it_acts(policy: Policy, path: str) -> Policy:
    """The policy itself, once it has answered an observation of zeros with an action of its space.

    Raises:
        UsageError: where it cannot; then its network does not fit its spaces.
    """
    try:
        fits = policy.action_space.contains(policy(zeros_of(policy.observation_space)))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise UsageError(f"policy {path!r} cannot act: its network does not fit its spaces; export it anew") from error
    require(fits, "policy", path, "its actions are none of its action space; export it anew")
    return policy


def _batched(obs: Any, space: Space, name: str = "obs") -> tuple[Any, bool]:
    """Observations with a batch dimension, and whether there was none."""
    if isinstance(space, gym.spaces.Dict):
        if isinstance(obs, tuple) and [*space.spaces] == [*map(str, range(len(obs)))]:  # a Dict in place of a Tuple
            obs = dict(zip(space.spaces, obs, strict=True))
        fits = isinstance(obs, dict) and space.spaces.keys() <= obs.keys()
        require(fits, name, type(obs).__name__, f"give a dict with the keys {', '.join(space.spaces)}")
        parts = {key: _batched(obs[key], part, f"{name}[{key!r}]") for key, part in space.spaces.items()}
        single = {is_one for _, is_one in parts.values()}
        require(len(single) == 1, name, "one and several", "give one observation, or a batch in every entry")
        return {key: part for key, (part, _) in parts.items()}, single.pop()
    shape = space.shape or ()
    array = np.asarray(obs)
    is_one = array.shape == shape
    fits = is_one or (array.ndim == len(shape) + 1 and array.shape[1:] == shape)
    require(fits, f"{name}.shape", array.shape, f"give {shape}, or a batch of them with one dimension more in front")
    require(array.dtype.kind in "fiub", f"{name}.dtype", str(array.dtype), "give numbers")
    require(bool(np.isfinite(array).all()), name, "not finite", "give observations without NaN and infinity")
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        first, end = space.start, space.start + (space.n if isinstance(space, gym.spaces.Discrete) else space.nvec)
        inside = bool(((array >= first) & (array < end)).all())
        require(inside, name, array.tolist(), f"give numbers from {first} to {end - 1}")
    array = array.astype(space.dtype, copy=False)
    return array[None] if is_one else array, is_one
