"""What a Gymnasium space becomes: dtypes, tensors and arrays; and which actions a learner can take."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_lightning.errors import require

TORCH_DTYPES = {
    np.dtype(name): torch.from_numpy(np.empty(0, dtype=name)).dtype
    for name in ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32")
}
TORCH_DTYPES[np.dtype("float64")] = torch.float32


def torch_dtype(space: gym.Space[Any]) -> torch.dtype:
    """The dtype observations of `space` are stored in: float64 becomes float32, the rest keep theirs."""
    return TORCH_DTYPES[space.dtype]  # type: ignore[index]


def to_tensor(obs: Any, space: gym.Space[Any]) -> Any:
    """Observations of one space, any leading dimensions, as learners see them: in the dtype of replay."""
    if isinstance(space, gym.spaces.Dict):
        return {key: to_tensor(obs[key], part) for key, part in space.spaces.items()}
    return torch.as_tensor(obs, dtype=torch_dtype(space))


def has_numbers(space: gym.Space[Any]) -> bool:
    """Whether the observations of a space are arrays of one shape, of numbers that tensors can hold."""
    kinds = (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)
    return isinstance(space, kinds) and space.dtype in TORCH_DTYPES


def leaves_of(space: gym.Space[Any], name: str = "obs") -> dict[str, gym.Space[Any]]:
    """The spaces in a Dict that are none, nested ones too, as ``obs.KEY``; of any other space itself, as ``obs``.

    Raises:
        UsageError: two of one name.
    """
    if not isinstance(space, gym.spaces.Dict):
        return {name: space}
    leaves: dict[str, gym.Space[Any]] = {}
    for key, part in space.spaces.items():
        inner = leaves_of(part, f"{name}.{key}")
        twice = sorted(leaves.keys() & inner.keys())
        advice = "two of them have this name, one with a point in its key; rename that in a wrapper (data.wrappers)"
        require(not twice, "observations", twice, advice)
        leaves |= inner
    return leaves


def zeros_of(space: gym.Space[Any]) -> Any:
    """An observation of zeros, or of the first numbers of what starts elsewhere."""
    if isinstance(space, gym.spaces.Dict):
        return {key: zeros_of(part) for key, part in space.spaces.items()}
    return np.full(space.shape or (), getattr(space, "start", 0), space.dtype)


ToLearner = Callable[[Any], Any]
"""An environment's observation to that of a learner."""


def learners_observations(space: gym.Space[Any]) -> tuple[gym.Space[Any], ToLearner | None]:
    """The observations that a learner sees of an environment's, and how they become them; None where they are the same.

    A Tuple becomes a Dict with the keys "0", "1", ..., in their order, wherever it stands.

    Args:
        space: the environment's own.
    """
    changed = _without_tuples(space)
    return (space, None) if changed is space else (changed, partial(_as_dicts, space))


def _without_tuples(space: gym.Space[Any]) -> gym.Space[Any]:
    if isinstance(space, gym.spaces.Tuple):
        return gym.spaces.Dict([(str(place), _without_tuples(part)) for place, part in enumerate(space.spaces)])
    if isinstance(space, gym.spaces.Dict):
        parts = [(key, _without_tuples(part)) for key, part in space.spaces.items()]
        if any(part is not space[key] for key, part in parts):
            return gym.spaces.Dict(parts)
    return space


def _as_dicts(space: gym.Space[Any], obs: Any) -> Any:
    """What does not fit its space stays as it is, for `CheckedEnv` to find."""
    if isinstance(space, gym.spaces.Tuple) and isinstance(obs, tuple | list) and len(obs) == len(space.spaces):
        return {str(place): _as_dicts(*pair) for place, pair in enumerate(zip(space.spaces, obs, strict=True))}
    if isinstance(space, gym.spaces.Dict) and isinstance(obs, dict) and obs.keys() == space.spaces.keys():
        return {key: _as_dicts(part, obs[key]) for key, part in space.spaces.items()}
    return obs


def to_numpy(action: Tensor) -> NDArray[Any]:
    """Actions as environments take them."""
    array: NDArray[Any] = (action.float() if action.is_floating_point() else action).cpu().numpy()
    return array


Actions = Literal["box", "discrete", "any"]
"""Kinds of actions: a bounded Box of vectors; a Discrete; any that `PolicyAndValue` has a head for."""


def fault_of_actions(space: gym.Space[Any], kind: Actions) -> str | None:
    """What an action space lacks to be of a kind; None where it is of it."""
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        whole = "a bounded Box" if kind == "box" else "a Discrete" if kind == "discrete" else "a Box or MultiDiscrete"
        return (
            f"there is no policy for parts of several kinds; make {whole} of them all in a wrapper (data.wrappers), as "
            "docs/environments.md shows"
        )
    if kind == "discrete":
        return None if isinstance(space, gym.spaces.Discrete) else "a Discrete is needed"
    if kind == "any" and not isinstance(space, gym.spaces.Box):
        finite = isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary)
        if finite and len(space.shape or ()) <= 1:
            return None
        return "a Box, Discrete, MultiDiscrete or MultiBinary of at most one dimension is needed"
    if not isinstance(space, gym.spaces.Box):
        return "a bounded Box (continuous actions) is needed"
    if not np.issubdtype(space.dtype, np.floating) or len(space.shape) != 1:
        return f"a Box of real vectors is needed, this is of shape {space.shape} and dtype {space.dtype}"
    if kind == "box" and not is_bounded(space):
        return (
            "finite bounds with low < high are needed in every dimension, these are "
            f"low={space.low.tolist()}, high={space.high.tolist()}"
        )
    return None


def is_bounded(space: gym.spaces.Box) -> bool:
    """Whether a Box has finite bounds, low < high, in every dimension, and their distance is a number of its dtype."""
    of_floats = np.result_type(space.low.dtype, np.float16)  # the distance of int8's bounds is no int8
    with np.errstate(over="ignore", invalid="ignore"):  # ±3e38 stand for no bounds: their distance is infinite
        width = np.subtract(space.high, space.low, dtype=of_floats)
    return bool(np.isfinite(width).all() and (width > 0.0).all())


ToEnvironment = Callable[[NDArray[Any]], NDArray[Any]]
"""A learner's actions, one or any number of them, to those of the environment."""


def learners_actions(space: gym.Space[Any]) -> tuple[gym.Space[Any], ToEnvironment | None]:
    """The actions that a learner gives for an environment's, and how they become them; None where they are the same.

    Bounded real ones are in [-1, 1], and finite ones count from 0. Real numbers beyond their bounds are clipped.

    Args:
        space: the environment's own, which `own_space` finds again.
    """
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        unit = _made_of(space, gym.spaces.Box(-1.0, 1.0, space.shape, np.float32))
        if (space.low == -1.0).all() and (space.high == 1.0).all():
            return unit, clip_action
        if is_bounded(space):
            return unit, partial(rescale_action, low=space.low, high=space.high)
        return space, partial(np.clip, a_min=space.low, a_max=space.high)
    if isinstance(space, gym.spaces.Discrete) and space.start != 0:
        return _made_of(space, gym.spaces.Discrete(int(space.n))), partial(np.add, space.start)
    if isinstance(space, gym.spaces.MultiDiscrete) and space.start.any():
        return _made_of(space, gym.spaces.MultiDiscrete(space.nvec)), partial(np.add, space.start)
    return space, None


def own_space(space: gym.Space[Any]) -> gym.Space[Any]:
    """The environment's action space that a learner's was made of, for messages."""
    own: gym.Space[Any] = getattr(space, "own", space)
    return own


def _made_of(own: gym.Space[Any], learners: gym.Space[Any]) -> gym.Space[Any]:
    learners.own = own  # type: ignore[attr-defined]
    return learners


def clip_action(action: NDArray[Any]) -> NDArray[Any]:
    """To [-1, 1]."""
    clipped: NDArray[Any] = np.minimum(np.maximum(action, np.float32(-1.0)), np.float32(1.0))
    return clipped


def rescale_action(action: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> NDArray[Any]:
    """From [-1, 1] to [low, high], each dimension by itself; clipped, since rounding may end just outside."""
    rescaled: NDArray[Any] = np.clip(low + (action + 1.0) * 0.5 * (high - low), low, high).astype(low.dtype)
    return rescaled
