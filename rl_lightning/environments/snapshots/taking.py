"""From the attributes of an environment to plain data."""

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from rl_lightning.environments.snapshots.adapters import adapter_of, attributes_beside
from rl_lightning.environments.snapshots.kinds import (
    BUILTIN,
    MISSING,
    SCALARS,
    attributes_of,
    builtin_base,
    class_name,
    is_harmless,
    is_member,
    kind_of,
    offset_in,
    pack,
    parts_of,
)
from rl_lightning.errors import UsageError, one_line


class Taker:
    """Walks from one thing through all that it holds, each thing once, and writes it down as plain data.

    A value is written as itself where it is a number, a string, None or a bool; as a list that begins with its kind
    otherwise. What can change has a number, so that two names of one array, and circles, come back as they were.

    Args:
        data: bytes that those of its arrays are added to.
        reads: whether states are asked for that things say by methods; not where only classes are looked for.

    Attributes:
        objects: what has a number, each a dict that begins with its `kind`.
        data: the bytes of all arrays, one after the other.
        types: the classes that were met.
        left: paths and things that were left alone although they may change.
    """

    def __init__(self, data: bytearray | None = None, reads: bool = True) -> None:
        self._reads = reads
        self.objects: list[dict[str, Any]] = []
        self.data = bytearray() if data is None else data
        self.types: set[type] = set()
        self.left: list[tuple[str, Any]] = []
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []  # or an address could come up again
        self._waiting: deque[tuple[int, str, Any, str]] = deque()

    def take(self, thing: Any) -> dict[str, Any]:
        """Everything from here on: ``{"root": value, "objects": [...]}``."""
        root = self.value(thing, "")
        while self._waiting:
            number, kind, waiting, path = self._waiting.popleft()
            written = {"kind": kind, "class": class_name(type(waiting))}
            self.objects[number] = written | getattr(self, f"_{kind}")(waiting, path)
        return {"root": root, "objects": self.objects}

    def value(self, thing: Any, path: str) -> Any:
        """How a thing is written where it is named."""
        cls = type(thing)
        if cls in SCALARS:
            return thing
        if cls is tuple:
            return ["tuple", "tuple", [self.value(item, path) for item in thing]]
        if isinstance(thing, np.generic) and not thing.dtype.hasobject:
            return ["scalar", np.lib.format.dtype_to_descr(thing.dtype), thing.tobytes().hex()]
        if cls is bytes:
            return ["bytes", *self._store(thing)]
        if cls is complex:
            return ["complex", thing.real, thing.imag]
        if is_member(thing):
            self.types.add(cls)
            return ["member", class_name(cls), thing.name]
        if cls is frozenset:
            return ["frozenset", [self.value(item, path) for item in thing]]
        if isinstance(thing, tuple) and hasattr(cls, "_fields"):
            self.types.add(cls)
            return ["tuple", class_name(cls), [self.value(item, path) for item in thing]]
        if (kind := kind_of(thing)) is not None:
            return ["object", self._number(thing, kind, path)]
        if not is_harmless(thing) and thing is not MISSING:
            self.left.append((path, thing))
        return ["left alone"]

    def _number(self, thing: Any, kind: str, path: str) -> int:
        if id(thing) not in self._numbers:
            self._numbers[id(thing)] = len(self.objects)
            self._waiting.append((len(self.objects), kind, thing, path))
            self._alive.append(thing)
            self.objects.append({})
            self.types.add(type(thing))
        return self._numbers[id(thing)]

    def _store(self, data: bytes) -> list[int]:
        self.data += data
        return [len(self.data) - len(data), len(data)]

    def _attributes(self, attributes: dict[str, Any], path: str) -> dict[str, Any]:
        return {name: self.value(value, f"{path}.{name}") for name, value in attributes.items()}

    def _object(self, thing: Any, path: str) -> dict[str, Any]:
        attributes = attributes_of(thing)
        if type(attributes.get("this")).__name__ == "SwigPyObject":  # all of it is in there
            self.left.append((path, thing))
            return {"attributes": {name: ["left alone"] for name in attributes}}
        if isinstance(thing, gym.Space):  # its bounds stay, and those of images are large
            attributes = {
                name: MISSING if isinstance(value, np.ndarray) else value for name, value in attributes.items()
            }
        return {"attributes": self._attributes(attributes, path)}

    def _contents(self, thing: Any, path: str) -> dict[str, Any]:
        if type(thing) in BUILTIN.values():
            return {"items": [self.value(item, path) for item in thing]}
        return {"items": [self.value(item, path) for item in thing]} | self._object(thing, path)

    _list = _set = _contents

    def _deque(self, thing: Any, path: str) -> dict[str, Any]:
        return self._contents(thing, path) | {"maxlen": thing.maxlen}

    def _dict(self, thing: dict[Any, Any], path: str) -> dict[str, Any]:
        items = builtin_base(type(thing)).items(thing)
        pairs = [[self.value(key, path), self.value(value, path)] for key, value in items]
        return {"items": pairs} | ({} if type(thing) in BUILTIN.values() else self._object(thing, path))

    def _array(self, array: np.ndarray[Any, Any], path: str) -> dict[str, Any]:
        base = array.base
        if type(base) is np.ndarray and not base.dtype.hasobject and base.flags.c_contiguous:
            number = self._number(base, "array", path)
            view = {"base": number, "offset": offset_in(base, array), "strides": list(array.strides)}
            return {"dtype": np.lib.format.dtype_to_descr(array.dtype), "shape": list(array.shape), "view": view}
        if array.dtype == object:
            items = [self.value(item, path) for item in array.flat]
            return {"dtype": "O", "shape": list(array.shape), "items": items}
        layout, data = pack(array)
        return layout | {"at": self._store(data)}

    def _tensor(self, tensor: torch.Tensor, path: str) -> dict[str, Any]:
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        dtype = str(tensor.dtype).removeprefix("torch.")
        return {"dtype": dtype, "shape": list(tensor.shape), "at": self._store(flat.tobytes())}

    def _callable(self, thing: Any, path: str) -> dict[str, Any]:
        return {"parts": [self.value(part, path) for part in parts_of(thing)]}

    def _adapted(self, thing: Any, path: str) -> dict[str, Any]:
        adapter = adapter_of(type(thing))
        assert adapter is not None
        if not self._reads:
            return {"attributes": self._attributes(attributes_beside(thing), path)}
        inner = Taker(self.data)
        state = inner.take(adapter.get(thing))
        if inner.left:
            where, odd = inner.left[0]
            raise UsageError(
                f"{class_name(type(thing))}.state_dict() holds {type_name(odd)} at {where or 'its top'} "
                f"({one_line(repr(odd))[:80]}): give numbers, strings, arrays, tensors, and lists and dicts of them"
            )
        return {"state": state, "attributes": self._attributes(attributes_beside(thing), path)}


def take(thing: Any) -> dict[str, Any]:
    """All that a thing holds, as plain data.

    Args:
        thing: an environment with its wrappers, or anything else.

    Returns:
        ``root`` and ``objects`` as `Taker` writes them, and ``data``, one array of uint8.

    Raises:
        UsageError: a `state_dict()` of the environment's own returns what is no plain data.
    """
    taker = Taker()
    taken = taker.take(thing)
    return taken | {"data": np.frombuffer(bytes(taker.data), np.uint8)}


def left_alone(env: Any) -> list[str]:
    """What of an environment is neither data nor sure to stay as it is: ``\\`world\\` (Box2D.b2World)``, ...

    Args:
        env: with its wrappers, or a vectorized one.
    """
    taker = Taker(reads=False)
    taker.take(env)
    found = []
    for path, thing in sorted(taker.left, key=lambda entry: entry[0].count(".")):
        names = path.strip(".").split(".")
        while names[0] == "env" and len(names) > 1:
            names.pop(0)
        found.append(f"`{'.'.join(names)}` ({type_name(thing)})")
    return [*dict.fromkeys(found)]


def type_name(thing: Any) -> str:
    """As one would import it."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}".removeprefix("builtins.")
