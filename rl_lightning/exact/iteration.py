"""Soft policy iteration and soft value iteration (lecture, section 5.1); with α = 0 the conventional ones."""

import torch
from torch import Tensor

from rl_lightning.errors import require
from rl_lightning.exact.evaluation import Solution, bellman_backup, rounding, soft_policy_evaluation, soft_state_value
from rl_lightning.exact.mdp import MDP
from rl_lightning.exact.policies import PolicyClass, soft_policy_improvement


def soft_policy_iteration(
    mdp: MDP,
    ent_coef: float,
    within: PolicyClass | None = None,
    policy: Tensor | None = None,
    tolerance: float = 1e-8,
) -> Solution:
    """The optimal policy in Π and its values, by evaluation and improvement in turn (Lemma 3).

    Args:
        mdp: the MDP, or many.
        ent_coef: the temperature α, from 0 on; 0 is policy iteration, whose policy takes the first of the best actions.
        within: Π; None for all policies.
        policy: where it begins, in Π, [*, S, A]; None for the one of Q = 0.
        tolerance: bound on the error, above 0; what float64 cannot tell is not asked for.

    Returns:
        q, v and the policy, v being its Equation 3 of q.

    Raises:
        UsageError: an argument out of range, or a Π that does not fit.
    """
    require(tolerance > 0.0, "tolerance", tolerance, "give a number above 0")
    policy = soft_policy_improvement(torch.zeros_like(mdp.reward), ent_coef, within) if policy is None else policy
    v, iterations, error, enough = torch.zeros_like(mdp.start), 0, torch.inf, tolerance
    while error > enough:
        old = soft_policy_evaluation(mdp, policy, ent_coef, tolerance=tolerance / 2, v=v)  # Lemma 1
        policy = soft_policy_improvement(old.q, ent_coef, within)  # Equation 4
        v = soft_state_value(old.q, policy, ent_coef)  # ≥ V of the old policy, Equation 5
        error = mdp.horizon * float((v - old.v).abs().max())
        enough, iterations = max(tolerance, rounding(mdp, old.q)), iterations + 1
    return Solution(old.q, v, policy, error, iterations)


def soft_value_iteration(
    mdp: MDP, ent_coef: float, within: PolicyClass | None = None, tolerance: float = 1e-8
) -> Solution:
    """The same fixed point, by V(s) ← max over π ∈ Π of E_π[Q − α log π], that is α log Σ_a exp(Q(s, a)/α).

    How far V* may still be above and below V follows from the last change (MacQueen 1966; Puterman 1994, section 6.6);
    the middle of the two is returned. In chains that mix fast they meet long before V itself gets there.

    Args:
        mdp: the MDP, or many.
        ent_coef: the temperature α, from 0 on; 0 is value iteration, whose policy takes the first of the best actions.
        within: Π; None for all policies.
        tolerance: bound on the error, above 0; what float64 cannot tell is not asked for.

    Returns:
        q, v and the policy, v being its Equation 3 of q.

    Raises:
        UsageError: an argument out of range, or a Π that does not fit.
    """
    require(tolerance > 0.0, "tolerance", tolerance, "give a number above 0")
    v, iterations, error, enough = torch.zeros_like(mdp.start), 0, torch.inf, tolerance
    while error > enough:
        q = bellman_backup(mdp, v)  # Equation 2
        policy = soft_policy_improvement(q, ent_coef, within)  # Equation 4
        new_v = soft_state_value(q, policy, ent_coef)  # Equation 3
        below, above = _still_to_come(mdp, new_v - v)
        error = 0.5 * float((above - below).max())
        v, enough, iterations = new_v, max(tolerance, rounding(mdp, q)), iterations + 1
    q = bellman_backup(mdp, v + 0.5 * (below + above))
    policy = soft_policy_improvement(q, ent_coef, within)
    return Solution(q, soft_state_value(q, policy, ent_coef), policy, error, iterations)


def _still_to_come(mdp: MDP, change: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the most that V* − V can be after a last change of V, both [*, 1].

    A change that is at least c everywhere is followed by at least γ c, γ² c, …; where episodes can end, c > 0 may be
    followed by nothing, and c < 0 too.
    """
    least, most = change.amin(-1, keepdim=True), change.amax(-1, keepdim=True)
    if bool(mdp.termination.any()):
        least, most = least.clamp(max=0.0), most.clamp(min=0.0)
    return (mdp.horizon - 1.0) * least, (mdp.horizon - 1.0) * most
