"""What each of several processes has for itself, in the one checkpoint that the first of them writes."""

from typing import Any

import torch.distributed as dist

from rl_lightning.types import State


def of_all_processes(state: State) -> list[State]:
    """The states of all processes in order of their ranks, in the first process; in the others their own alone."""
    if not _several():
        return [state]
    states: list[Any] = [state] * dist.get_world_size()
    dist.gather_object(state, states if dist.get_rank() == 0 else None)
    return states


def of_this_process(states: list[State]) -> State:
    """This process's own; the first one's where there are fewer."""
    rank = dist.get_rank() if _several() else 0
    return states[rank] if rank < len(states) else states[0]


def lost_a_process(error: RuntimeError) -> bool:
    """Whether an exchange failed because another process is no longer there; gloo says so in the text alone."""
    return dist.is_available() and (isinstance(error, dist.DistError) or "gloo/transport" in str(error))


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()
