"""From plain data into the attributes of an environment."""

from collections import defaultdict, deque
from enum import Enum
from types import FunctionType
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from rl_lightning.environments.snapshots.adapters import ADAPTERS, adapter_of
from rl_lightning.environments.snapshots.classes import by_name, shared_by, siblings
from rl_lightning.environments.snapshots.kinds import (
    BUILTIN,
    CONTAINERS,
    MISSING,
    attributes_of,
    builtin_base,
    class_name,
    dtype_of,
    is_walked,
    offset_in,
    parts_of,
    unpack,
    write_attributes,
)
from rl_lightning.environments.snapshots.taking import Taker
from rl_lightning.errors import UsageError, one_line

Bytes = np.ndarray[Any, Any]


class Putter:
    """Walks through what a `Taker` has written, and through a fresh thing beside it, and makes the one of the other.

    What the fresh thing has at the same place, of the same class, is written in place, since others may hold on to it.
    What it lacks is made: containers, arrays and generators, and objects of classes that it uses itself. No class is
    looked for by its name anywhere else.

    Args:
        taken: `root` and `objects`.
        data: the bytes of all arrays, uint8.
        fresh: what is written to.
    """

    def __init__(self, taken: dict[str, Any], data: Bytes, fresh: Any = MISSING) -> None:
        self.root, self.objects, self.data, self.fresh = taken["root"], taken["objects"], data, fresh
        survey = Taker(reads=False)
        survey.take(fresh)
        self._types = survey.types
        self._classes = by_name(survey.types)
        self._shared = shared_by(survey.types)  # with other environments: never written to
        self._live: dict[int, Any] = {}
        self._claimed: dict[int, Any] = {}
        self._waiting: deque[tuple[dict[str, Any], Any, Any, bool]] = deque()

    def put(self) -> Any:
        """Write everything; the thing that results is `fresh`, or a new one where that was not given."""
        if type(self.root) is list and self.root[0] == "object":
            self._shared.discard(id(self.fresh))
        thing = self.value(self.root, self.fresh, True)
        while self._waiting:
            node, waiting, hint, own = self._waiting.popleft()
            getattr(self, f"_fill_{node['kind']}")(node, waiting, hint, own)
        return thing

    def value(self, written: Any, fresh: Any, own: bool) -> Any:
        """What is written, as a thing again.

        Args:
            written: see `Taker`.
            fresh: what stands at its place in the fresh thing, MISSING if nothing does.
            own: whether that may be written to.
        """
        if type(written) is not list:
            return written
        kind, *rest = written
        match kind:
            case "object":
                return self._thing(rest[0], fresh, own)
            case "left alone":
                return fresh
            case "scalar":
                return np.frombuffer(bytes.fromhex(rest[1]), dtype_of({"dtype": rest[0]}))[0]
            case "bytes":
                return self._bytes(rest).tobytes()
            case "complex":
                return complex(*rest)
            case "member":
                return self._class(rest[0], Enum).__members__[rest[1]]
            case "frozenset":
                return frozenset(self._values(rest[0], (), False))
            case "tuple":
                items = self._values(rest[1], fresh if isinstance(fresh, tuple) else (), own)
                return tuple(items) if rest[0] == "tuple" else tuple.__new__(self._class(rest[0], tuple), items)
        raise ValueError(f"an unknown kind of value, {kind!r}")

    def _values(self, written: list[Any], fresh: Any, own: bool) -> list[Any]:
        hints = [*fresh, *[MISSING] * (len(written) - len(fresh))]
        values = [self.value(*pair, own) for pair in zip(written, hints, strict=False)]
        return [None if value is MISSING else value for value in values]

    def _bytes(self, at: list[int]) -> Bytes:
        start, length = at
        if not 0 <= start <= start + length <= len(self.data):
            raise ValueError("bytes are missing")
        return self.data[start : start + length]

    def _class(self, name: str, base: type) -> Any:
        for cls in [self._classes.get(name), *siblings(name, self._types)]:
            if cls is not None and issubclass(cls, base):
                return cls
        raise ValueError(f"a {name} was saved, and the environment has none of that class to begin with")

    def _thing(self, number: int, fresh: Any, own: bool) -> Any:
        if number in self._live:
            return self._live[number]
        node = self.objects[number]
        same = fresh is not MISSING and class_name(type(fresh)) == node["class"]
        mine = own and same and id(fresh) not in self._claimed and id(fresh) not in self._shared
        thing = getattr(self, f"_place_{node['kind']}")(node, fresh if same else MISSING, mine)
        self._live[number] = thing
        self._claimed[id(thing)] = thing
        self._waiting.append((node, thing, fresh if same else MISSING, thing is fresh))
        return thing

    def _place_object(self, node: dict[str, Any], fresh: Any, mine: bool) -> Any:
        if mine:
            return fresh
        base = CONTAINERS.get(node["kind"], object)
        cls = BUILTIN.get(node["class"]) or self._class(node["class"], base)
        if not issubclass(cls, base):
            raise ValueError(f"a {node['class']} is no {node['kind']}")
        made = builtin_base(cls).__new__(cls)  # no code of the class runs
        if cls not in BUILTIN.values() and (not is_walked(cls) or issubclass(cls, gym.Env)):
            raise ValueError(f"a {node['class']} was saved, and the environment has none in its place")
        return made

    _place_list = _place_set = _place_object

    def _place_dict(self, node: dict[str, Any], fresh: Any, mine: bool) -> Any:
        placed = self._place_object(node, fresh, mine)
        if isinstance(placed, defaultdict) and isinstance(fresh, defaultdict):
            placed.default_factory = fresh.default_factory
        return placed

    def _place_deque(self, node: dict[str, Any], fresh: Any, mine: bool) -> Any:
        if mine and fresh.maxlen == node["maxlen"]:
            return fresh
        return deque(maxlen=node["maxlen"]) if node["class"] == "deque" else self._place_object(node, fresh, False)

    def _place_array(self, node: dict[str, Any], fresh: Any, mine: bool) -> Any:
        mine = mine and fresh.dtype == dtype_or_object(node) and list(fresh.shape) == node["shape"]
        if (view := node.get("view")) is not None:
            base = self._thing(view["base"], fresh.base if mine and fresh.base is not None else MISSING, mine)
            there = mine and fresh.base is base and list(fresh.strides) == view["strides"]
            if there and offset_in(base, fresh) == view["offset"]:
                return fresh
            return np.ndarray(node["shape"], dtype_of(node), base, view["offset"], view["strides"])
        if "items" in node:
            return fresh if mine else np.empty(node["shape"], object)
        array = unpack(node, self._bytes(node["at"]))
        if not mine or not fresh.flags.writeable:
            return array
        fresh[...] = array
        return fresh

    def _place_tensor(self, node: dict[str, Any], fresh: Any, mine: bool) -> Any:
        dtype = getattr(torch, node["dtype"])
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{node['dtype']!r} is no dtype")
        data = torch.from_numpy(self._bytes(node["at"]).copy())
        tensor = data.view(dtype).reshape(node["shape"]) if len(data) else torch.empty(node["shape"], dtype=dtype)
        if not mine or fresh.dtype != dtype or list(fresh.shape) != node["shape"]:
            return tensor
        with torch.no_grad():
            return fresh.copy_(tensor)

    def _place_callable(self, node: dict[str, Any], fresh: Any, mine: bool) -> Any:
        if fresh is MISSING:
            raise ValueError("a function was saved where the environment has none to begin with")
        return fresh

    def _place_adapted(self, node: dict[str, Any], fresh: Any, mine: bool) -> Any:
        state = Putter(node["state"], self.data).put()
        adapter = adapter_of(type(fresh)) if mine else None
        spawned = isinstance(state, dict) and state.get("seeds") is not None
        if adapter is not None and not (adapter.make and spawned):
            adapter.set(fresh, state)
            return fresh
        for name, made_by in ADAPTERS.items():
            if made_by.make is not None and name.rpartition(".")[2] == node["class"]:
                return made_by.make(state)
        raise ValueError(f"a {node['class']} was saved, and the environment has none in its place")

    def _fill_object(self, node: dict[str, Any], thing: Any, hint: Any, own: bool) -> None:
        hints = {} if hint is MISSING else attributes_of(hint)
        written = node["attributes"].items()
        values = {name: self.value(value, hints.get(name, MISSING), own) for name, value in written}
        write_attributes(thing, {name: value for name, value in values.items() if value is not MISSING})

    def _fill_adapted(self, node: dict[str, Any], thing: Any, hint: Any, own: bool) -> None:
        for name, written in node["attributes"].items():
            value = self.value(written, vars(thing).get(name, MISSING), own)
            if value is not MISSING:
                vars(thing)[name] = value

    def _fill_list(self, node: dict[str, Any], thing: Any, hint: Any, own: bool) -> None:
        values = self._values(node["items"], () if hint is MISSING else [*hint], own)
        thing.clear()
        thing.extend(values)
        self._fill_beside(node, thing, hint, own)

    _fill_deque = _fill_list

    def _fill_set(self, node: dict[str, Any], thing: Any, hint: Any, own: bool) -> None:
        values = self._values(node["items"], (), False)
        thing.clear()
        thing.update(values)
        self._fill_beside(node, thing, hint, own)

    def _fill_dict(self, node: dict[str, Any], thing: Any, hint: Any, own: bool) -> None:
        base = builtin_base(type(thing))
        hints: dict[Any, Any] = {} if hint is MISSING else dict(base.items(hint))
        places = [*hints, *[MISSING] * len(node["items"])]
        keys = [self.value(key, place, False) for (key, _), place in zip(node["items"], places, strict=False)]
        values = [
            self.value(item[1], hints.get(key, MISSING), own) for item, key in zip(node["items"], keys, strict=True)
        ]
        base.clear(thing)
        for key, value in zip(keys, values, strict=True):
            if value is not MISSING:
                base.__setitem__(thing, key, value)
        self._fill_beside(node, thing, hint, own)

    def _fill_beside(self, node: dict[str, Any], thing: Any, hint: Any, own: bool) -> None:
        if "attributes" in node:
            self._fill_object(node, thing, hint, own)

    def _fill_array(self, node: dict[str, Any], thing: Any, hint: Any, own: bool) -> None:
        if "items" in node:
            hints = [*hint.flat] if isinstance(hint, np.ndarray) and hint.dtype == object else ()
            for place, value in enumerate(self._values(node["items"], hints, own)):
                thing.flat[place] = value

    def _fill_tensor(self, node: dict[str, Any], thing: Any, hint: Any, own: bool) -> None:
        """Written when it was placed."""

    def _fill_callable(self, node: dict[str, Any], thing: Any, hint: Any, own: bool) -> None:
        parts = parts_of(thing)
        values = [self.value(*pair, own) for pair in zip(node["parts"], parts, strict=True)]
        if isinstance(thing, FunctionType) and own:
            for cell, value, part in zip(thing.__closure__ or (), values, parts, strict=True):
                if value is not part:
                    cell.cell_contents = value


def dtype_or_object(node: dict[str, Any]) -> np.dtype[Any]:
    """An array's dtype, also where its items are written one by one."""
    return np.dtype(object) if "items" in node else dtype_of(node)


def put(taken: dict[str, Any], fresh: Any = MISSING) -> Any:
    """Make a thing what another one was.

    Args:
        taken: what `take` returned for the other one.
        fresh: a thing of the same class, just made; left out for containers, arrays and numbers, which are made anew.

    Returns:
        `fresh`, or what was made.

    Raises:
        UsageError: the state is damaged, or of another class than the thing.
    """
    try:
        return Putter(taken, np.asarray(taken["data"]), fresh).put()
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"the state does not fit: {one_line(error)}") from error
