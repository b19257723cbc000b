"""How much memory a replay buffer will take, and whether there is so much."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from rl_lightning.data.replay.buffer import transition_layout
from rl_lightning.data.replay.frames import bytes_of_frames
from rl_lightning.data.replay.layout import observation_fields
from rl_lightning.data.replay.sum_tree import bytes_of_tree
from rl_lightning.errors import UsageError
from rl_lightning.types import State

CGROUPS = Path("/sys/fs/cgroup")
MEMORY_INFO = Path("/proc/meminfo")
OWN_CGROUPS = Path("/proc/self/cgroup")


def transitions_to_keep(buffer_size: int, most: int, frame_stack: int, held: int = 0) -> int:
    """For how many transitions a buffer is made: no more than a run can fill.

    Args:
        buffer_size: the setting.
        most: transitions that the run can gather.
        frame_stack: as of `ReplayBuffer`; episodes of one step have two frames each, so frames need twice the room.
        held: transitions that it starts with.
    """
    return min(buffer_size, most * (2 if frame_stack > 1 else 1) + held)


def transitions_in(state: State) -> int:
    """How many a saved buffer holds."""
    if "storage" in state:  # before schema 1
        return int(state["storage"]["reward"].numel())
    return int(state["filled_rows"]) * len(state["ended"])


def bytes_of_buffer(
    transitions: int,
    num_envs: int,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    frame_stack: int = 1,
    priority_alpha: float = 0.0,
) -> int:
    """Bytes that a `ReplayBuffer` of so many transitions takes when it is full, without making one."""
    rows, obs = transitions // num_envs, observation_fields(observation_space)
    frames = bytes_of_frames(rows, num_envs, obs, frame_stack) if frame_stack > 1 else 0
    transition = transition_layout({} if frame_stack > 1 else obs, action_space).row_bytes
    tree = bytes_of_tree(rows * num_envs) if priority_alpha > 0 else 0
    total: int = rows * num_envs * transition + frames + tree
    return total


def check_memory(needed: int, buffer_size: int, device: torch.device) -> None:
    """Refuse a buffer for which there is no memory.

    Args:
        needed: bytes of the full buffer.
        buffer_size: the setting.
        device: where it is to live.

    Raises:
        UsageError: with the bytes that are needed and those that are available.
    """
    available = available_memory(device)
    if available is not None and needed > available:
        place = "memory" if device.type == "cpu" else f"memory of {device}"
        other = "buffer_on_device=false" if device.type != "cpu" else "buffer_file=FILE"
        raise UsageError(
            f"buffer_size={buffer_size} is not allowed: a full buffer of this run needs {readable(needed)} of {place}, "
            f"{readable(available)} are available; give a smaller one, fewer total_env_steps, or {other} where the "
            "DataModule has it"
        )


def available_memory(device: torch.device) -> int | None:
    """Bytes that this process can still take; None where the system does not say."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    limits = [_of_machine(), *_of_cgroups()]
    return min((limit for limit in limits if limit is not None), default=None) if device.type == "cpu" else None


def readable(count: int) -> str:
    """A number of bytes in words: '51.5 GiB'."""
    size, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.{0 if units[0] == 'bytes' else 1}f} {units[0]}"


def _of_machine() -> int | None:
    for line in _lines(MEMORY_INFO):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _of_cgroups() -> list[int | None]:
    """What is left of every limit that is set for the groups of this process, in either version of cgroups."""
    left: list[int | None] = []
    for line in _lines(OWN_CGROUPS):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, used, cache = CGROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, used = CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in [group, *(parent for parent in group.parents if parent.is_relative_to(root))]:
            left.append(_left(folder / limit, folder / used, folder / "memory.stat", cache))
    return left


def _left(limit: Path, used: Path, statistics: Path, cache: str) -> int | None:
    [allowed], [taken] = _lines(limit) or ["max"], _lines(used) or ["0"]
    if allowed == "max":
        return None
    reclaimable = sum(int(line.split()[1]) for line in _lines(statistics) if line.startswith(f"{cache} "))
    return max(0, int(allowed) - int(taken) + reclaimable)


def _lines(path: Path) -> list[str]:
    """Of a file of the system; none where it does not exist, as on other systems."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
