"""Soft policy evaluation (lecture, Equations 2 and 3, Lemma 1), with the temperature α written out."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rl_lightning.errors import require
from rl_lightning.exact.checks import as_policy, check_ent_coef
from rl_lightning.exact.krylov import solve_fixed_point
from rl_lightning.exact.mdp import MDP


@dataclass(frozen=True)
class Solution:
    """Values and a policy.

    Args:
        q: Q(s, a), [*, S, A].
        v: V(s), [*, S].
        policy: π(a|s), [*, S, A].
        error: no entry of q and v is further from its true value; a bound by the Bellman residual, so without trust in
            the method. Of all MDPs together.
        iterations: that it took.
    """

    q: Tensor
    v: Tensor
    policy: Tensor
    error: float
    iterations: int


def bellman_backup(mdp: MDP, v: Tensor) -> Tensor:
    """Q(s, a) = R(s, a) + γ E_s'[V(s')], Equation 2: `[*, S]` to `[*, S, A]`."""
    q: Tensor = mdp.reward + mdp.gamma * mdp.expected_next(v)
    return q


def soft_state_value(q: Tensor, policy: Tensor, ent_coef: float) -> Tensor:
    """V(s) = E_{a~π}[Q(s, a) − α log π(a|s)], Equation 3; where π(a|s) = 0 it adds nothing. `[*, S, A]` to `[*, S]`."""
    v: Tensor = (policy * q + ent_coef * torch.special.entr(policy)).sum(-1)
    return v


def soft_bellman_backup(mdp: MDP, q: Tensor, policy: Tensor, ent_coef: float) -> Tensor:
    """B^π Q, Equations 2 and 3 together: `[*, S, A]` to `[*, S, A]`."""
    return bellman_backup(mdp, soft_state_value(q, policy, ent_coef))


def soft_policy_evaluation(
    mdp: MDP,
    policy: Tensor,
    ent_coef: float,
    method: Literal["solve", "iterate"] = "solve",
    tolerance: float = 1e-8,
    v: Tensor | None = None,
) -> Solution:
    """Q^π and V^π, the fixed point of B^π (Lemma 1), which solves the linear system (I − γ P_π) V = R_π.

    Args:
        mdp: the MDP, or many.
        policy: π, [*, S, A]; many policies of one dense MDP can lie in front.
        ent_coef: the temperature α, from 0 on.
        method: "solve" directly, where the MDP is sparse by a Krylov method; "iterate" Q ← B^π Q.
        tolerance: bound on the error, above 0; what float64 cannot tell is not asked for.
        v: [*, S], where the iteration or the Krylov method begins; None for zeros.

    Raises:
        UsageError: a policy that is none, an argument out of range.
    """
    check_ent_coef(ent_coef)
    policy = as_policy(policy, mdp.reward)
    require(method in ("solve", "iterate"), "method", method, "give 'solve' or 'iterate'")
    require(tolerance > 0.0, "tolerance", tolerance, "give a number above 0")
    if mdp.sparse:
        require(policy.ndim == 2, "policy.shape", list(policy.shape), "a sparse MDP takes one policy, [S, A]")
    if method == "iterate":
        return _iterate(mdp, policy, ent_coef, tolerance, _zeros(policy) if v is None else v)
    reward, iterations = soft_state_value(mdp.reward, policy, ent_coef), 1  # R_π, [*, S]
    if mdp.sparse:
        begin = _zeros(policy) if v is None else v
        moves = mdp.gamma * mdp.moves(policy)  # γ P_π, [S, S']
        v, iterations = solve_fixed_point(moves, reward, begin, tolerance / mdp.horizon)
    else:
        v = torch.linalg.solve(resolvent(mdp, policy), reward)
    q = bellman_backup(mdp, v)
    error = mdp.horizon * float((soft_state_value(q, policy, ent_coef) - v).abs().max())
    return Solution(q, v, policy, error, iterations)


def resolvent(mdp: MDP, policy: Tensor) -> Tensor:
    """I − γ P_π of a dense MDP: [*, S, S']."""
    moves = mdp.moves(policy)
    return torch.eye(moves.shape[-1], dtype=moves.dtype, device=moves.device) - mdp.gamma * moves


def rounding(mdp: MDP, q: Tensor) -> float:
    """The error that float64 may leave in values of the size of q."""
    return 64.0 * torch.finfo(q.dtype).eps * mdp.horizon * float(q.abs().max())


def _iterate(mdp: MDP, policy: Tensor, ent_coef: float, tolerance: float, v: Tensor) -> Solution:
    iterations, error, enough = 0, torch.inf, tolerance
    while error > enough:
        q = bellman_backup(mdp, v)  # Equation 2
        new_v = soft_state_value(q, policy, ent_coef)  # Equation 3
        error = mdp.horizon * float((new_v - v).abs().max())
        enough = max(tolerance, rounding(mdp, q))
        v, iterations = new_v, iterations + 1
    return Solution(q, v, policy, error, iterations)


def _zeros(policy: Tensor) -> Tensor:
    return policy.new_zeros(policy.shape[:-1])
