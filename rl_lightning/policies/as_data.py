"""Spaces and bodies of networks as data: what JSON holds, and nothing that names code.

Whatever is read back is checked first: a file may come from a stranger.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from torch import nn

from rl_lightning.errors import UsageError, require
from rl_lightning.networks import MLP
from rl_lightning.types import Space, State

ENTRIES = 2**24  # of one observation; Gymnasium makes arrays of bounds as large as a space says it is

LAYERS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {  # a layer's name, and the settings that it is made from
    "linear": (nn.Linear, ("in_features", "out_features", "bias")),
    "layer_norm": (nn.LayerNorm, ("normalized_shape", "eps", "elementwise_affine", "bias")),
    "rms_norm": (nn.RMSNorm, ("normalized_shape", "eps", "elementwise_affine")),
    "batch_norm": (nn.BatchNorm1d, ("num_features", "eps", "affine")),
    "relu": (nn.ReLU, ()),
    "tanh": (nn.Tanh, ()),
    "elu": (nn.ELU, ("alpha",)),
    "silu": (nn.SiLU, ()),
    "gelu": (nn.GELU, ("approximate",)),
    "mish": (nn.Mish, ()),
    "leaky_relu": (nn.LeakyReLU, ("negative_slope",)),
    "sigmoid": (nn.Sigmoid, ()),
    "softplus": (nn.Softplus, ("beta", "threshold")),
    "identity": (nn.Identity, ()),
    "dropout": (nn.Dropout, ("p",)),
}


def space_to_data(space: Space) -> State:
    """A Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of them.

    Raises:
        UsageError: any other space.
    """
    match space:
        case gym.spaces.Dict():
            return {"kind": "dict", "spaces": {key: space_to_data(part) for key, part in space.spaces.items()}}
        case gym.spaces.Box():
            low, high = _bounds_to_data(space.low), _bounds_to_data(space.high)
            return {"kind": "box", "shape": [*space.shape], "dtype": str(space.dtype), "low": low, "high": high}
        case gym.spaces.Discrete():
            return {"kind": "discrete", "n": int(space.n), "start": int(space.start)}
        case gym.spaces.MultiDiscrete():
            return {"kind": "multi_discrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
        case gym.spaces.MultiBinary():
            return {"kind": "multi_binary", "shape": [*space.shape]}
    raise UsageError(f"space {type(space).__name__} has no description: give a Box, Discrete, Multi* or a Dict of them")


def space_from_data(data: Any) -> Space:
    """A space from its `space_to_data`.

    Raises:
        UsageError: what is no such description, or describes a space of more than 16,777,216 numbers.
    """
    try:
        require(_entries(data) <= ENTRIES, "space", "of more numbers than that", f"give at most {ENTRIES:,}")
        return _space(data)
    except (KeyError, TypeError, ValueError, AssertionError, AttributeError, OverflowError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"a space cannot be made of its description: {type(error).__name__}: {error}") from error


def _entries(data: Any) -> int:
    """Numbers that a space has, as its description says."""
    match data["kind"]:
        case "dict":
            return sum(_entries(part) for part in data["spaces"].values())
        case "box" | "multi_binary":
            assert all(type(size) is int and size >= 0 for size in data["shape"])
            return math.prod(data["shape"])
        case "discrete":
            return int(data["n"])  # one-hot for a network
        case "multi_discrete":
            return int(np.sum(data["nvec"]))
    raise ValueError(f"{data['kind']!r} is no kind of space")


def _space(data: Any) -> Space:
    match data["kind"]:
        case "dict":
            return gym.spaces.Dict(OrderedDict((str(key), _space(part)) for key, part in data["spaces"].items()))
        case "box":
            dtype, shape = np.dtype(str(data["dtype"])), tuple(data["shape"])
            assert dtype.kind in "fiub", f"{dtype} is no dtype of numbers"
            low, high = (_bounds(data[name], shape, sign) for name, sign in (("low", -np.inf), ("high", np.inf)))
            return gym.spaces.Box(low.astype(dtype), high.astype(dtype), shape, dtype.type)
        case "discrete":
            return gym.spaces.Discrete(int(data["n"]), start=int(data["start"]))
        case "multi_discrete":
            return gym.spaces.MultiDiscrete(np.array(data["nvec"], np.int64), start=np.array(data["start"], np.int64))
    sizes = [int(size) for size in data["shape"]]
    return gym.spaces.MultiBinary(sizes[0] if len(sizes) == 1 else sizes)


def _bounds_to_data(bounds: NDArray[Any]) -> Any:
    """One number where all are the same, else as deep as the array; null where there is no bound."""
    same = bounds.size and (bounds == bounds.flat[0]).all()
    return _each(lambda bound: bound if math.isfinite(bound) else None, (bounds.flat[0] if same else bounds).tolist())


def _bounds(data: Any, shape: tuple[int, ...], unbounded: float) -> NDArray[Any]:
    filled = _each(lambda bound: unbounded if bound is None else bound, data)
    return np.broadcast_to(np.array(filled), shape)


def _each(function: Callable[[Any], Any], numbers: Any) -> Any:
    return [_each(function, part) for part in numbers] if isinstance(numbers, list) else function(numbers)


def body_to_data(body: nn.Module) -> State:
    """A body of layers that are known by name, one after the other.

    Raises:
        UsageError: any other module.
    """
    if type(body) in (nn.Sequential, MLP):
        return {"layer": "sequential", "layers": [body_to_data(layer) for layer in body.children()]}
    for name, (kind, settings) in LAYERS.items():
        if type(body) is kind:
            return {"layer": name, **{setting: _setting(body, setting) for setting in settings}}
    raise UsageError(f"{type(body).__module__}.{type(body).__qualname__} is no layer that is known by name")


def _setting(layer: nn.Module, name: str) -> Any:
    value = getattr(layer, name)
    if name == "bias":  # the layer has a parameter of this name, or none
        return value is not None
    return [*value] if isinstance(value, tuple) else value


def body_from_data(data: Any) -> nn.Module:
    """A body from its `body_to_data`. Make it on torch's meta device: then sizes that lie cost no memory.

    Raises:
        UsageError: what is no such description.
    """
    try:
        if data["layer"] == "sequential":
            return nn.Sequential(*map(body_from_data, data["layers"]))
        kind, settings = LAYERS[data["layer"]]
        return kind(**{setting: data[setting] for setting in settings})
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"a layer cannot be made of its description: {type(error).__name__}: {error}") from error
