"""Rows of bytes in which the fields of a transition lie side by side."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rl_lightning.errors import UsageError, one_line, require
from rl_lightning.spaces import has_numbers, own_space, torch_dtype
from rl_lightning.types import map_obs

ALIGNMENT = 8  # bytes, of the largest dtype


class Field(NamedTuple):
    """One field of a transition: shape and dtype of a single entry."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of a single entry."""
        return math.prod(self.shape) * self.dtype.itemsize


class Stored(NamedTuple):
    """Transitions in memory, single steps, as views with leading dimensions `*`."""

    obs: Any  # [*, *obs_shape], or a dict of them; of stacked frames {}, as those are kept apart
    action: Any  # [*, *action_shape]
    reward: Any  # [*] float32
    next_obs: Any  # as obs
    terminated: Any  # [*] bool
    truncated: Any  # [*] bool


class _Columns(NamedTuple):
    """Where the fields of one dtype lie in a packed row, counted in entries of it."""

    dtype: torch.dtype
    widths: list[int]  # of what is before them, of each, and of what is after them
    fields: list[tuple[str, tuple[int, ...]]]  # name and shape of each


class Layout:
    """Where each field lies in a packed row.

    Args:
        fields: `Field`s in a dict, nested in any way.

    Attributes:
        row_bytes: of one row.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        by_dtype: dict[torch.dtype, list[tuple[str, Field]]] = {}
        # the larger dtypes first, so that no field needs bytes to be aligned
        for name, field in sorted(leaves(fields), key=lambda leaf: -leaf[1].dtype.itemsize):
            by_dtype.setdefault(field.dtype, []).append((name, field))
        row_bytes = sum(field.nbytes for _, field in leaves(fields))
        self.row_bytes = -(-row_bytes // ALIGNMENT) * ALIGNMENT
        self._columns, start = [], 0
        for dtype, own in by_dtype.items():
            end = start + sum(field.nbytes for _, field in own)
            widths = [start, *(field.nbytes for _, field in own), self.row_bytes - end]
            shapes = [(name, field.shape) for name, field in own]
            self._columns.append(_Columns(dtype, [width // dtype.itemsize for width in widths], shapes))
            start = end
        in_order = leaves(fields)  # as `map_obs` walks
        self._names = map_obs(lambda _: next(in_order)[0], fields)

    def views(self, memory: Tensor) -> Any:
        """The fields of packed rows: [*, row_bytes] uint8 to views [*, ...] of it, nested as the fields are."""
        views = {}
        for dtype, widths, fields in self._columns:
            _, *parts, _ = memory.view(dtype).split_with_sizes(widths, -1)
            for (name, shape), part in zip(fields, parts, strict=True):
                if len(shape) == 1:  # `view` would do for all three cases, and take half as long again
                    views[name] = part
                else:
                    views[name] = part.view(part.shape[:-1] + shape) if shape else part.squeeze(-1)
        return map_obs(views.__getitem__, self._names)

    def staging(self, rows: int) -> tuple[Tensor, Any]:
        """Rows to be filled before they are copied: the bytes, and the fields as NumPy views of them."""
        memory = torch.zeros(rows, self.row_bytes, dtype=torch.uint8)
        return memory, map_obs(lambda view: view.numpy(), self.views(memory))


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of a nested dict with their dotted names."""
    if isinstance(tree, dict):
        for key, part in tree.items():
            yield from leaves(part, f"{name}.{key}" if name else key)
    else:
        yield name, tree


def allocate(shape: tuple[int, ...], device: torch.device, file: str | None) -> Tensor:
    """Bytes in memory or in a new file, taken as they are first written.

    Raises:
        UsageError: a file that exists, or cannot be made; a disk, or memory, without room for it.
    """
    if device.type != "cpu":
        return torch.empty(shape, dtype=torch.uint8, device=device)
    if file is None:
        # numpy asks for huge pages, which random reads of a large memory gain from; torch does not
        try:
            return torch.from_numpy(np.empty(shape, dtype=np.uint8))
        except MemoryError as error:
            raise UsageError(f"buffer_size is not allowed: {one_line(error)}; give a smaller one") from error
    require(not Path(file).exists(), "buffer_file", file, "it exists already; give a new file, or remove this one")
    needed = math.prod(shape)
    try:
        free = shutil.disk_usage(Path(file).parent).free
        require(needed <= free, "buffer_file", file, f"{needed} bytes may be needed there, {free} are free")
        return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="w+", shape=shape))
    except OSError as error:
        raise UsageError(f"buffer_file={file!r} is not allowed: it cannot be made ({one_line(error)})") from error


def observation_fields(space: gym.Space[Any]) -> Any:
    """A `Field` for observations of `space`, or for a Dict space a dict of them.

    Raises:
        UsageError: kinds of spaces that cannot be stored.
    """
    if isinstance(space, gym.spaces.Dict):
        return {key: observation_fields(part) for key, part in space.spaces.items()}
    if not has_numbers(space):
        raise UsageError(
            f"observation space {one_line(space)} is not supported by ReplayDataModule: it stores observations of "
            "Box, Discrete, MultiDiscrete, MultiBinary, and Dict of these; choose another environment"
        )
    return Field(space.shape or (), torch_dtype(space))


def action_field(space: gym.Space[Any]) -> Field:
    """The `Field` for actions of `space`: of a Box float32, else the space's dtype.

    Raises:
        UsageError: kinds of spaces that cannot be stored.
    """
    if isinstance(space, gym.spaces.Box):
        return Field(space.shape or (), torch.float32)
    if not isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary):
        raise UsageError(
            f"action space {one_line(own_space(space))} is not supported by ReplayDataModule: it stores actions of "
            "Box, Discrete, MultiDiscrete and MultiBinary; choose another environment"
        )
    return Field(space.shape or (), torch_dtype(space))
