"""Soft policy improvement (lecture, Equation 4): the information projection onto a class of policies Π."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rl_lightning.errors import require
from rl_lightning.exact.checks import check_ent_coef, refuse_where


@dataclass(frozen=True)
class PolicyClass:
    """Π: the policies that take allowed actions only, each of them at least with a given probability.

    Args:
        allowed: [*, S, A] bool, in each state at least one; None for all.
        floor: the least π(a|s) of each allowed action, a number or [*, S, A]. In each state they sum to at most 1.

    Raises:
        UsageError: a state without an allowed action, or floors that leave no policy.
    """

    allowed: Tensor | None = None
    floor: Tensor | float = 0.0

    def __post_init__(self) -> None:
        floor = torch.as_tensor(self.floor, dtype=torch.float64)
        require(bool(((floor >= 0) & (floor <= 1)).all()), "floor", self.floor, "give probabilities, 0 to 1")
        if self.allowed is not None:
            require(self.allowed.dtype == torch.bool, "allowed.dtype", self.allowed.dtype, "give torch.bool, [S, A]")
            none = ~self.allowed.any(-1)
            refuse_where("allowed", none, self.allowed.sum(-1), "at least one allowed action")

    def limits(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """The allowed actions, bool, and the floor of each action; both in the shape of q, [*, S, A].

        Raises:
            UsageError: floors that sum to more than 1 in a state, or another shape.
        """
        allowed = torch.ones_like(q, dtype=torch.bool) if self.allowed is None else self.allowed.to(q.device)
        floor = torch.as_tensor(self.floor, dtype=q.dtype, device=q.device)
        for name, given in (("allowed", allowed), ("floor", floor)):
            fits = given.ndim == 0 or given.shape[-2:] == q.shape[-2:]
            require(fits, f"{name}.shape", list(given.shape), f"the shape [S, A] is {list(q.shape[-2:])} here")
        floor = torch.where(allowed, floor, 0.0).expand_as(q)
        total = floor.sum(-1)
        refuse_where("floor", total > 1.0 + 1e-9, total, "floors whose sum over the allowed actions is at most 1")
        return allowed.expand_as(q), floor


def soft_policy_improvement(q: Tensor, ent_coef: float, within: PolicyClass | None = None) -> Tensor:
    """argmin over π ∈ Π of KL(π(·|s) ‖ exp(Q(s, ·)/α) / Z(s)), Equation 4 with the temperature written out.

    Among all policies that is softmax(Q/α). Its limit α = 0 takes the first of the best actions.

    Args:
        q: [*, S, A].
        ent_coef: the temperature α, from 0 on.
        within: Π; None for all policies.

    Returns:
        The policy, [*, S, A].

    Raises:
        UsageError: a temperature out of range, or a Π that does not fit.
    """
    check_ent_coef(ent_coef)
    if within is None:
        return torch.softmax(_logits(q, ent_coef), -1)
    allowed, floor = within.limits(q)
    policy = torch.softmax(_logits(q.masked_fill(~allowed, -torch.inf), ent_coef), -1)
    return _raised_to_floor(policy, floor)


def _logits(q: Tensor, ent_coef: float) -> Tensor:
    """Q/α less its maximum, finite or −∞ for any α: 0 for the first of the best and −∞ for others where α = 0."""
    if ent_coef > 0:
        return (q - q.amax(-1, keepdim=True)) / ent_coef
    best = q.argmax(-1, keepdim=True)  # the first, by torch's contract
    return torch.full_like(q, -torch.inf).scatter(-1, best, 0.0)


def _raised_to_floor(policy: Tensor, floor: Tensor) -> Tensor:
    """argmin of KL(π' ‖ π) over π' ≥ floor, by water-filling; both [*, S, A].

    The multipliers of the constraints say π'(a) = max(floor(a), c π(a)). Raising an action to its floor takes from the
    others, so c falls and those that lie at their floor stay there: at most A rounds find them all, and c.
    """
    raised = torch.zeros_like(policy, dtype=torch.bool)
    while True:
        left = 1.0 - torch.where(raised, floor, 0.0).sum(-1, keepdim=True)
        c = left / torch.where(raised, 0.0, policy).sum(-1, keepdim=True).clamp(min=torch.finfo(policy.dtype).tiny)
        more = raised | (c * policy < floor)
        if torch.equal(more, raised):
            return torch.where(raised, floor, c * policy)
        raised = more
