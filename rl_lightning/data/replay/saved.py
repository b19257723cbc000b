"""Rings as they are saved: as they lie in memory, without a copy, and how another ring takes them over."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_lightning.data.replay.layout import Field, Layout, leaves
from rl_lightning.errors import UsageError
from rl_lightning.types import State, map_obs

CHUNK = 65_536  # rows copied at once
HELD_IN = ("memory", "storage")  # the transitions of a saved buffer; before schema 1 in the second


def is_buffer(state: object) -> bool:
    """Whether this is the state of a replay buffer."""
    return isinstance(state, dict) and {"steps", "generator"} <= state.keys() and not state.keys().isdisjoint(HELD_IN)


def replay_in(checkpoint: State) -> State | None:
    """What the DataModule saved that had a replay buffer; Lightning puts it under the name of its class, any class."""
    states = (each for each in checkpoint.values() if isinstance(each, dict) and is_buffer(each.get("buffer")))
    return next(states, None)


def prefix(memory: Tensor, rows: int) -> Tensor:
    """The first rows of a tensor on the CPU, in a storage of just these: `torch.save` writes whole storages."""
    return torch.from_numpy(memory[:rows].cpu().numpy())


def newest(steps: int, rows: int, keep: int) -> NDArray[np.int64]:
    """Where the newest `keep` rows lie in a ring of `rows` that `steps` have been written to, the oldest first."""
    return np.arange(steps - keep, steps) % rows


def put(into: Any, places: NDArray[np.int64], saved: Any, rows: NDArray[np.int64]) -> None:
    """Copy `rows` of a saved ring to `places` of another, on any device; both tensors or both arrays, [*, ...]."""
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        chunk = saved[rows[part]]
        into[places[part]] = chunk.to(into.device) if isinstance(chunk, Tensor) else chunk


def described(tree: Any, skip: int, name: str = "") -> dict[str, str]:
    """Shape and dtype of each tensor in nested dicts, by its dotted name.

    Args:
        tree: of tensors.
        skip: leading dimensions left out.
        name: of the outermost.
    """
    return {key: f"shape {tuple(field.shape[skip:])} {field.dtype}" for key, field in leaves(tree, name)}


def check_described(saved: dict[str, str], own: dict[str, str]) -> None:
    """Refuse fields of a checkpoint that do not fit those of this run, each as `described`.

    Raises:
        UsageError: other names, shapes or dtypes.
    """
    for key in [*own, *saved]:
        here, there = own.get(key, "none"), saved.get(key, "no shape")
        if here != there:
            raise UsageError(
                f"the checkpoint's replay buffer holds {key} of {there} a time step, this run {here}: resume with the "
                "num_envs and environment it had"
            )


def upgraded(state: State) -> State:
    """A ring saved before schema 1, with its fields apart and the oldest row first, as rings are saved now."""
    storage, frames, priorities = state["storage"], state.get("frames"), state.get("priorities")
    rows, num_envs = storage["reward"].shape
    turn = state["steps"] % rows
    new = state | {"memory": _packed(storage).roll(turn, 0).flatten(0, 1), "fields": described(storage, skip=1)}
    new |= {"rows": rows, "filled_rows": rows, "ended": state.get("ended", torch.ones(num_envs, dtype=torch.bool))}
    if frames is not None:
        memory, written = _packed({"obs": frames["frames"]}), frames["written"]
        held = memory.shape[1]
        new["frames"] = {
            "memory": [ring.roll(int(number) % held, 0) for ring, number in zip(memory, written, strict=True)],
            "fields": described(frames["frames"], skip=2, name="frames"),
            "capacity": held,
            "written": written,
            "newest": frames["newest"].roll(turn, 0),
            "age": frames["age"].roll(turn, 0),
        }
    if priorities is not None:
        new["priorities"] = priorities | {"powers": priorities["powers"].roll(turn * num_envs)}
    return new


def _packed(fields: dict[str, Any]) -> Tensor:
    """Fields [*, *, ...] side by side, [*, *, row_bytes]."""
    layout = Layout(map_obs(lambda field: Field(tuple(field.shape[2:]), field.dtype), fields))
    memory = torch.zeros(*next(leaves(fields))[1].shape[:2], layout.row_bytes, dtype=torch.uint8)
    map_obs(lambda view, field: view.copy_(field), layout.views(memory), fields)
    return memory
