"""Things that say their state by methods: generators of random numbers, simulators, what has `state_dict`."""

import random
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeVar

import gymnasium as gym
import numpy as np
import torch

from rl_lightning.environments.snapshots.simulators import (
    ale_state,
    mujoco_data,
    mujoco_model,
    set_ale_state,
    set_mujoco_data,
    set_mujoco_model,
)

Found = TypeVar("Found")


class Adapter(NamedTuple):
    """How the state of a class is read and written.

    Attributes:
        get: of a thing, its state as plain data and arrays.
        set: write such a state into a thing.
        make: a new thing with the state; None where only the environment's constructor makes one.
    """

    get: Callable[[Any], Any]
    set: Callable[[Any, Any], None]
    make: Callable[[Any], Any] | None = None


def once_per_class(function: Callable[[type], Found]) -> Callable[[type], Found]:
    """Remember what was found for a class."""
    return cache(function)


@once_per_class
def adapter_of(cls: type) -> Adapter | None:
    """None for a class that says its state by its attributes alone."""
    if (adapter := ADAPTERS.get(f"{cls.__module__}.{cls.__qualname__}")) is not None:
        return adapter
    if issubclass(cls, type | torch.nn.Module):  # a module's attributes are more than its `state_dict`
        return None
    if callable(getattr(cls, "state_dict", None)) and callable(getattr(cls, "load_state_dict", None)):
        return OWN_METHODS
    return None


def attributes_beside(thing: Any) -> dict[str, Any]:
    """What is taken although an environment has methods of its own: what it wraps, and its generators."""
    if not isinstance(thing, gym.Env):
        return {}
    spaces = ("action_space", "observation_space", "_action_space", "_observation_space")
    names = ("env", "_np_random", "_np_random_seed", *spaces)
    return {name: vars(thing)[name] for name in names if name in vars(thing)}


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """Of NumPy's generator, with the seeds it was made from where it has made generators itself by `spawn`."""
    bits = generator.bit_generator
    seeds = bits.seed_seq
    spawned = isinstance(seeds, np.random.SeedSequence) and seeds.n_children_spawned > 0
    return {"bits": bits.state, "seeds": {**seeds.state} if spawned else None}  # type: ignore[attr-defined]


def set_generator_state(generator: np.random.Generator, state: dict[str, Any]) -> None:
    """Go on with the numbers of another."""
    generator.bit_generator.state = state["bits"]


def make_generator(state: dict[str, Any]) -> np.random.Generator:
    """A new one in the given state."""
    kinds = {cls.__name__: cls for cls in BIT_GENERATORS}
    seeds = state["seeds"] and np.random.SeedSequence(**state["seeds"])
    generator = np.random.Generator(kinds[state["bits"]["bit_generator"]](seeds or 0))
    set_generator_state(generator, state)
    return generator


def make_random_state(state: dict[str, Any]) -> np.random.RandomState:
    """A new one of NumPy's older generators."""
    made = np.random.RandomState(0)
    made.set_state(state)
    return made


def make_random(state: Any) -> random.Random:
    """A new one of Python's generators."""
    made = random.Random(0)
    made.setstate(state)
    return made


def make_torch_generator(state: torch.Tensor) -> torch.Generator:
    """A new one of torch's, for the CPU."""
    return torch.Generator().set_state(state)


def process_generators() -> dict[str, Any]:
    """The random numbers that all of a process shares: Python's, NumPy's and torch's."""
    return {"python": random.getstate(), "numpy": np.random.get_state(legacy=False), "torch": torch.get_rng_state()}


def set_process_generators(state: dict[str, Any]) -> None:
    """Go on with the random numbers of another process."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])


BIT_GENERATORS = (
    np.random.PCG64,
    np.random.PCG64DXSM,
    np.random.MT19937,
    np.random.Philox,
    np.random.SFC64,
)
OWN_METHODS = Adapter(lambda thing: thing.state_dict(), lambda thing, state: thing.load_state_dict(state))
ADAPTERS = {
    "numpy.random._generator.Generator": Adapter(generator_state, set_generator_state, make_generator),
    "numpy.random.mtrand.RandomState": Adapter(
        lambda generator: generator.get_state(legacy=False),
        lambda generator, state: generator.set_state(state),
        make_random_state,
    ),
    "random.Random": Adapter(
        lambda generator: generator.getstate(),
        lambda generator, state: generator.setstate(state),
        make_random,
    ),
    "torch._C.Generator": Adapter(
        lambda generator: generator.get_state(),
        lambda generator, state: generator.set_state(state),
        make_torch_generator,
    ),
    "mujoco._structs.MjData": Adapter(mujoco_data, set_mujoco_data),
    "mujoco._structs.MjModel": Adapter(mujoco_model, set_mujoco_model),
    "ale_py._ale_py.ALEInterface": Adapter(ale_state, set_ale_state),
}
