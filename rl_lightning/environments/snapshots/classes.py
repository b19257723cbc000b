"""Classes that an environment consists of, and what their modules share between environments."""

import sys
from collections import deque

import gymnasium as gym
import numpy as np
import torch

from rl_lightning.environments.snapshots.kinds import class_name, is_walked


def by_name(types: set[type]) -> dict[str, type | None]:
    """Classes by their names; None where two have the same."""
    found: dict[str, type | None] = {}
    for cls in types:
        name = class_name(cls)
        found[name] = cls if found.get(name, cls) is cls else None
    return found


def rooms_of(types: set[type]) -> set[str]:
    """Names of the modules that define classes and their bases, without those of Python, NumPy and torch."""
    names = {cls.__module__ for walked in types for cls in walked.__mro__}
    others = sys.stdlib_module_names | {"numpy", "torch"}
    return {name for name in names if name in sys.modules and name.partition(".")[0] not in others}


def siblings(name: str, types: set[type]) -> list[type]:
    """Classes of this name from the modules that define the given ones."""
    modules = rooms_of(types)
    found = {id(value): value for module in modules for value in vars(sys.modules[module]).values()}
    return [
        value
        for value in found.values()
        if isinstance(value, type) and class_name(value) == name and value.__module__ in modules
    ]


def shared_by(types: set[type]) -> set[int]:
    """Addresses of what stands in classes and modules, such as constants, which environments may name but not own."""
    shared: set[int] = set()
    modules = rooms_of(types)
    classes = {cls for walked in types for cls in walked.__mro__ if cls.__module__ in modules}
    rooms = [vars(room) for room in [*classes, *(sys.modules[name] for name in modules)]]
    waiting = [value for room in rooms for name, value in room.items() if not name.startswith("__")]
    while waiting:
        thing = waiting.pop()
        if id(thing) in shared or isinstance(thing, gym.Env | np.random.Generator | type):
            continue
        if isinstance(thing, dict | list | tuple | set | frozenset | deque):
            shared.add(id(thing))
            waiting += [*thing.values()] if isinstance(thing, dict) else [*thing]
        elif isinstance(thing, np.ndarray | torch.Tensor) or is_walked(type(thing)):
            shared.add(id(thing))
            waiting += [thing.base] if isinstance(getattr(thing, "base", None), np.ndarray) else []
    return shared
