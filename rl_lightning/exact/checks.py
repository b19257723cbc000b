"""What is no MDP is refused in one line that says where."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rl_lightning.errors import UsageError, require


def as_float64(name: str, value: Any, device: torch.device | None = None) -> Tensor:
    """A dense float64 tensor, on `device` or where it is.

    Raises:
        UsageError: what is no array of numbers, or sparse.
    """
    if isinstance(value, Tensor) and value.layout != torch.strided:
        raise UsageError(f"{name} is sparse: only transition may be, give a dense one")
    try:
        return torch.as_tensor(value, dtype=torch.float64, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name} is no array of numbers: {str(error).splitlines()[0]}") from error


def refuse_where(name: str, bad: Tensor, value: Tensor, allowed: str) -> None:
    """Refuse the first place in which `bad` is true.

    Args:
        name: of the argument.
        bad: [...] bool.
        value: [...], what is quoted.
        allowed: what must stand there.

    Raises:
        UsageError: where there is such a place.
    """
    if bad.any():
        place = tuple(bad.nonzero()[0].tolist())
        axes = {1: "state", 2: "state, action", 3: "state, action, next state"}.get(bad.ndim, "MDP, state, action, …")
        index = ", ".join(map(str, place))
        raise UsageError(f"{name}[{index}] ({axes}) is {float(value[place])!r}: give {allowed}")


def refuse_endless(termination: Tensor, expected_next: Callable[[Tensor], Tensor]) -> None:
    """Refuse an MDP in which some policy never ends, as γ = 1 needs an end.

    The states that such a policy can stay in are the largest set in which each state has an action that neither ends
    nor leaves the set. A state without such an action drops out, until none does.

    Args:
        termination: [*, S, A].
        expected_next: the MDP's, `[*, S]` to `[*, S, A]`.

    Raises:
        UsageError: names a state and its action.
    """
    endless = torch.ones(termination.shape[:-1], dtype=torch.bool, device=termination.device)  # [*, S]
    while True:
        stays = (termination == 0) & (expected_next((~endless).to(termination.dtype)) == 0)  # [*, S, A]
        fewer = endless & stays.any(-1)
        if torch.equal(fewer, endless):
            break
        endless = fewer
    if endless.any():
        place = tuple(endless.nonzero()[0].tolist())
        action = int(stays[place].to(torch.int8).argmax())
        raise UsageError(
            f"gamma=1.0 is not allowed: from state {place[-1]} on, with action {action} there, an episode need not "
            "end; give a gamma below 1, or a termination that no policy escapes"
        )


def as_policy(policy: Any, reward: Tensor) -> Tensor:
    """A policy of an MDP with this reward [*, S, A], in float64 on its device; many policies may lie in front.

    Raises:
        UsageError: another shape, or rows that are no distribution.
    """
    given, shape = as_float64("policy", policy, reward.device), reward.shape[-2:]
    allowed = f"a policy of this MDP has the shape [S, A] = {list(shape)}, with MDPs or policies in front"
    require(given.ndim >= 2 and given.shape[-2:] == shape, "policy.shape", list(given.shape), allowed)
    refuse_where("policy", ~(given >= 0), given, "a probability")
    total = given.sum(-1)
    refuse_where("policy", (total - 1.0).abs() > 1e-6, total, "1 as the sum of the row")
    return given


def check_ent_coef(ent_coef: float) -> None:
    """Refuse a temperature α that is negative or not finite."""
    require(0.0 <= ent_coef < float("inf"), "ent_coef", ent_coef, "give a number from 0 on; 0 is without entropy")
