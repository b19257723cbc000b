"""What is wrong with the things that an environment returns, in words; None where nothing is."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rl_lightning.errors import one_line

Check = Callable[[Any], str | None]  # an observation to its fault


def obs_check(space: gym.Space[Any]) -> Check:
    """What finds the fault of an observation of `space`: kind, shape, dtype, NaN and infinity, range of discrete ones.

    A dtype that can be taken for the space's within its kind passes, as float64 and integers do for float32. Bounds of
    a Box are not looked at: many environments leave theirs, and nothing depends on them.
    """
    if isinstance(space, gym.spaces.Dict):
        return partial(_dict_fault, {key: obs_check(part) for key, part in space.spaces.items()})
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return partial(_real_fault, space.shape, space.dtype)
    if isinstance(space, gym.spaces.Box):
        return partial(_whole_fault, space.shape, space.dtype)
    if isinstance(space, gym.spaces.Discrete):
        return partial(_discrete_fault, int(space.start), int(space.start + space.n))
    if isinstance(space, gym.spaces.MultiDiscrete):
        return partial(_choices_fault, space.shape, space.dtype, space.start, space.start + space.nvec)
    if isinstance(space, gym.spaces.MultiBinary):
        return partial(_choices_fault, space.shape, space.dtype, 0, 2)
    return lambda obs: None if space.contains(obs) else f"an observation {shown(obs)} that is not in its space {space}"


def number_of(reward: Any) -> float | None:
    """A reward as a float; None where it is no single real number. NaN and infinities pass."""
    array = _array(reward)
    return float(array) if array is not None and array.shape == () and array.dtype.kind in "biuf" else None


def flag_of(value: Any) -> bool | None:
    """`terminated` or `truncated` as a bool; None where it is neither true nor false. 0 and 1 pass."""
    array = _array(value)
    is_flag = array is not None and array.shape == () and array.dtype.kind in "biu" and int(array) in (0, 1)
    return bool(array) if is_flag else None


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = one_line(repr(value))
    return text if len(text) <= 200 else f"{text[:200]}..."


def _real_fault(shape: tuple[int, ...], dtype: np.dtype[Any], obs: Any) -> str | None:
    is_fit = type(obs) is np.ndarray and obs.dtype.kind == "f" and obs.shape == shape
    if not is_fit and (fault := _form_fault(shape, dtype, obs)) is not None:
        return fault
    if np.isfinite(obs if is_fit else np.asarray(obs)).all():
        return None
    return f"an observation with NaN or infinity: {shown(np.asarray(obs).tolist())}"


def _whole_fault(shape: tuple[int, ...], dtype: np.dtype[Any], obs: Any) -> str | None:
    if type(obs) is np.ndarray and obs.dtype == dtype and obs.shape == shape:
        return None
    fault = _form_fault(shape, dtype, obs)
    if fault is None and (np.asarray(obs).astype(dtype) != obs).any():
        return f"an observation with numbers beyond {dtype}: {shown(np.asarray(obs).tolist())}"
    return fault


def _discrete_fault(first: int, end: int, obs: Any) -> str | None:
    is_exact = type(obs) is np.int64 or type(obs) is int
    if not is_exact and (fault := _form_fault((), np.dtype(np.int64), obs)) is not None:
        return fault
    if first <= obs < end:
        return None
    return f"the observation {shown(obs)}; its space has {first} to {end - 1}"


def _choices_fault(shape: tuple[int, ...], dtype: np.dtype[Any], first: Any, end: Any, obs: Any) -> str | None:
    is_exact = type(obs) is np.ndarray and obs.dtype == dtype and obs.shape == shape
    if not is_exact and (fault := _form_fault(shape, dtype, obs)) is not None:
        return fault
    if ((first <= np.asarray(obs)) & (np.asarray(obs) < end)).all():
        return None
    lowest, highest = shown(np.asarray(first).tolist()), shown((np.asarray(end) - 1).tolist())
    return f"the observation {shown(np.asarray(obs).tolist())}; its space has {lowest} to {highest}"


def _dict_fault(checks: dict[str, Check], obs: Any) -> str | None:
    if not isinstance(obs, dict):
        return f"an observation that is no dict but {shown(obs)}; its space has the keys {', '.join(checks)}"
    if obs.keys() != checks.keys():
        given = ", ".join(map(str, obs)) or "none"
        return f"an observation with the keys {given}; its space has the keys {', '.join(checks)}"
    for key, check in checks.items():
        if (fault := check(obs[key])) is not None:
            return f"under {key!r} {fault}"
    return None


def _form_fault(shape: tuple[int, ...], dtype: np.dtype[Any], obs: Any) -> str | None:
    """Of what is not an array of just this shape and dtype."""
    array = _array(obs)
    if array is None or array.dtype.kind not in "biuf":
        return f"an observation that holds no numbers: {shown(obs)}; its space says {dtype}"
    if array.shape != shape:
        return f"an observation of shape {array.shape}; its space says {shape}"
    is_list = not isinstance(obs, np.ndarray | np.generic)
    whole_numbers = array.dtype.kind == "i" and dtype.kind in "iu" and is_list  # Python's own have no dtype
    if not np.can_cast(array.dtype, dtype, "same_kind") and not whole_numbers:
        return f"an observation of {array.dtype}; its space says {dtype}"
    return None


def _array(value: Any) -> NDArray[Any] | None:
    try:
        return np.asarray(value)
    except Exception:  # a ragged list, or an object that is no array at all
        return None
