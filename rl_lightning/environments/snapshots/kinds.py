"""What attributes may hold: which of it is data, which belongs to the program and is left alone."""

import logging
import re
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from enum import Enum
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec, WrapperSpec

from rl_lightning.environments.snapshots.adapters import adapter_of, once_per_class

SCALARS = (type(None), bool, int, float, str)
CONTAINERS = {"dict": dict, "list": list, "deque": deque, "set": set}
BUILTIN = {cls.__qualname__: cls for cls in (dict, list, deque, set, OrderedDict, defaultdict, Counter)}
CALLABLES = (types.FunctionType, types.MethodType, partial)
OF_THE_PROGRAM = (
    type,
    types.ModuleType,
    types.BuiltinFunctionType,
    property,
    range,
    np.dtype,
    np.ufunc,
    torch.dtype,
    torch.device,
    re.Pattern,
    PurePath,
    logging.Logger,
    EnvSpec,  # names code to import: it must never come out of a file
    WrapperSpec,
)
WALKED = {"abc", "collections", "dataclasses", "enum", "types", "typing"}  # of Python's own modules: without a handle
MADE_BY_CLASS = 1 << 9  # the flag of classes that a `class` statement makes
MISSING = object()  # what the other environment does not have


def kind_of(thing: Any) -> str | None:
    """How something that can change is taken, or None where it is left alone."""
    cls = type(thing)
    if (container := container_of(cls)) is not None:
        return container
    if adapter_of(cls) is not None:
        return "adapted"
    if cls is np.ndarray:
        return None if thing.dtype.hasobject and thing.dtype != object else "array"
    if isinstance(thing, torch.Tensor):
        return "tensor" if cls in (torch.Tensor, torch.nn.Parameter) and thing.layout == torch.strided else None
    if isinstance(thing, CALLABLES):
        return "callable" if parts_of(thing) else None
    return "object" if not isinstance(thing, OF_THE_PROGRAM) and is_walked(cls) else None


@once_per_class
def container_of(cls: type) -> str | None:
    """The name of the container that a class is, or comes from and adds attributes to."""
    kind = next((name for name, base in CONTAINERS.items() if issubclass(cls, base)), None)
    return kind if cls in BUILTIN.values() or is_walked(cls) else None


def builtin_base(cls: type) -> Any:
    """The container of Python's own that a class is or comes from; `object` for others."""
    return next((base for base in cls.__mro__ if base in BUILTIN.values()), object)


@once_per_class
def is_walked(cls: type) -> bool:
    """Whether the attributes of its instances, and the items of a container, are all there is of them.

    What is written in C keeps its state elsewhere. Instances of Python's own classes may hold what is worth nothing in
    another process, or does harm: the number of a process to end, of a file, a lock.
    """
    if cls is types.SimpleNamespace:
        return True
    for base in cls.__mro__[:-1]:
        if base in BUILTIN.values():
            continue
        room = base.__module__.partition(".")[0]
        if not base.__flags__ & MADE_BY_CLASS or room in sys.stdlib_module_names - WALKED:
            return False
    return cls.__dictoffset__ != 0 or any("__slots__" in vars(base) for base in cls.__mro__)


def is_harmless(thing: Any) -> bool:
    """Whether it may be left alone since play does not change it."""
    return isinstance(thing, (*OF_THE_PROGRAM, *CALLABLES)) or type(thing) is object


def class_name(cls: type) -> str:
    """What classes are compared by. Never imported from."""
    return cls.__qualname__


def slots_of(thing: Any) -> Iterator[str]:
    """The names of its attributes that stand outside of its `__dict__`."""
    for cls in type(thing).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if name.startswith("__") and not name.endswith("__"):
                yield f"_{cls.__name__.lstrip('_')}{name}"
            elif name not in ("__dict__", "__weakref__"):
                yield name


def attributes_of(thing: Any) -> dict[str, Any]:
    """By name, those in slots too."""
    found = {name: getattr(thing, name) for name in slots_of(thing) if hasattr(thing, name)}
    return found | dict(getattr(thing, "__dict__", {}))


def write_attributes(thing: Any, attributes: dict[str, Any]) -> None:
    """Make these its attributes; those that it has beyond them are deleted."""
    slots = set(slots_of(thing))
    for name in slots:
        if name in attributes:
            object.__setattr__(thing, name, attributes[name])
        elif hasattr(thing, name):
            object.__delattr__(thing, name)
    if hasattr(thing, "__dict__"):
        inside = {name: value for name, value in attributes.items() if name not in slots}
        thing.__dict__.clear()
        thing.__dict__.update(inside)


def parts_of(thing: Any) -> list[Any]:
    """What a function, method or partial holds on to, which may change though it does not."""
    if isinstance(thing, types.MethodType):
        return [] if isinstance(thing.__self__, type) else [thing.__self__]
    if isinstance(thing, partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    return [cell_contents(cell) for cell in thing.__closure__ or ()]


def cell_contents(cell: types.CellType) -> Any:
    """What a closure's variable holds; MISSING where it is not set yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def is_member(thing: Any) -> bool:
    """Whether it is a named member of an enumeration."""
    return isinstance(thing, Enum) and thing.name in type(thing).__members__


def pack(array: np.ndarray[Any, Any]) -> tuple[dict[str, Any], bytes]:
    """What an array is and what is in it, entries as they lie in memory: sums depend on that in their last bits."""
    axes = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    dtype = np.lib.format.dtype_to_descr(array.dtype)
    return {"dtype": dtype, "shape": list(array.shape), "axes": axes}, array.transpose(axes).tobytes()


def unpack(layout: dict[str, Any], data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array again, as `pack` found it.

    Raises:
        ValueError: the bytes are not as many as its shape needs.
    """
    dtype, axes = dtype_of(layout), layout["axes"]
    flat = np.frombuffer(data.tobytes(), dtype) if data.size else np.empty(0, dtype)
    there = flat.reshape([layout["shape"][axis] for axis in axes]).transpose(np.argsort(axes) if axes else ())
    return there.copy(order="K")


def offset_in(base: np.ndarray[Any, Any], view: np.ndarray[Any, Any]) -> int:
    """Where a view of an array begins, in bytes from the array's beginning."""
    start: int = view.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return start


def dtype_of(layout: dict[str, Any]) -> np.dtype[Any]:
    """An array's dtype, which never holds objects."""
    descr = layout["dtype"]
    dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(
        [tuple(field) for field in descr] if isinstance(descr, list) else descr
    )
    if dtype.hasobject:
        raise ValueError("an array of objects does not come from bytes")
    return dtype
