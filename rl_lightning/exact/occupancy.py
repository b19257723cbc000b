"""How often states are visited, the objective (lecture, Equation 1), and its gradient for a softmax policy."""

import torch
from torch import Tensor

from rl_lightning.errors import require
from rl_lightning.exact.checks import as_float64, as_policy, check_ent_coef
from rl_lightning.exact.evaluation import resolvent, soft_policy_evaluation, soft_state_value
from rl_lightning.exact.krylov import solve_fixed_point
from rl_lightning.exact.mdp import MDP


def state_occupancy(mdp: MDP, policy: Tensor, tolerance: float = 1e-8) -> Tensor:
    """d(s) = Σ_t γ^t P(s_t = s) from the start distribution, the solution of d = start + γ P_πᵀ d.

    Without termination it sums to 1/(1 − γ): it is not normalized.

    Args:
        mdp: the MDP, or many.
        policy: π, [*, S, A].
        tolerance: of the sum of all errors, where the MDP is sparse.

    Returns:
        [*, S].

    Raises:
        UsageError: a policy that is none.
    """
    policy = as_policy(policy, mdp.reward)
    if not mdp.sparse:
        arrivals = resolvent(mdp, policy).mT
        d: Tensor = torch.linalg.solve(arrivals, mdp.start.expand(arrivals.shape[:-1]))
        return d
    require(policy.ndim == 2, "policy.shape", list(policy.shape), "a sparse MDP takes one policy, [S, A]")
    arrivals = mdp.gamma * mdp.moves(policy).to_sparse().t().to_sparse_csr()  # γ P_πᵀ, [S', S]
    return solve_fixed_point(arrivals, mdp.start, mdp.start, tolerance / mdp.horizon, order=1)[0]


def occupancy(mdp: MDP, policy: Tensor, tolerance: float = 1e-8) -> Tensor:
    """ρ(s, a) = d(s) π(a|s), discounted visits of states with actions; arguments of `state_occupancy`. [*, S, A]."""
    policy = as_policy(policy, mdp.reward)
    return state_occupancy(mdp, policy, tolerance)[..., None] * policy


def objective(mdp: MDP, policy: Tensor, ent_coef: float) -> Tensor:
    """J(π) = E[Σ_t γ^t (R(s_t, a_t) + α H(π(·|s_t)))] from the start distribution: Equation 1, discounted, T = ∞.

    Arguments of `soft_policy_evaluation`. Returns [*], a scalar for one MDP and policy.
    """
    return (mdp.start * soft_policy_evaluation(mdp, policy, ent_coef).v).sum(-1)


def finite_objective(mdp: MDP, policy: Tensor, ent_coef: float, last_step: int) -> Tensor:
    """J(π) = Σ_{t=0}^T E[R(s_t, a_t) + α H(π(·|s_t))]: Equation 1 as it stands, so not discounted, whatever mdp.gamma.

    Args:
        mdp: the MDP, or many.
        policy: π, [*, S, A].
        ent_coef: the temperature α, from 0 on.
        last_step: T; there are T + 1 steps, unless the episode ends before.

    Returns:
        [*], a scalar for one MDP and policy.

    Raises:
        UsageError: a policy that is none, an argument out of range.
    """
    check_ent_coef(ent_coef)
    policy = as_policy(policy, mdp.reward)
    require(last_step >= 0, "last_step", last_step, "give an integer from 0 on")
    v = policy.new_zeros(policy.shape[:-1])  # [*, S], after the last step
    for _ in range(last_step + 1):
        v = soft_state_value(mdp.reward + mdp.expected_next(v), policy, ent_coef)
    return (mdp.start * v).sum(-1)


def policy_gradient(mdp: MDP, logits: Tensor, ent_coef: float) -> Tensor:
    """∂J/∂θ(s, a) of `objective` for π = softmax(θ), in closed form (Sutton et al. 2000, Theorem 1, with entropy).

    The theorem's Σ_s d(s) Σ_a ∇π(a|s) (Q(s, a) − α log π(a|s)) is d(s) π(a|s) (Q(s, a) − α log π(a|s) − V(s)) here.

    Args:
        mdp: the MDP, or many.
        logits: θ, [*, S, A].
        ent_coef: the temperature α, from 0 on.

    Returns:
        [*, S, A].

    Raises:
        UsageError: an argument out of range or of another shape.
    """
    log_policy = torch.log_softmax(as_float64("logits", logits, mdp.reward.device), -1)
    policy = log_policy.exp()
    values = soft_policy_evaluation(mdp, policy, ent_coef)
    advantage = values.q - ent_coef * log_policy - values.v[..., None]  # [*, S, A]
    return occupancy(mdp, policy) * advantage
