"""Independent oracles: quantecon's DiscreteDP without entropy, cvxpy's exponential cones with it, linear programmes."""

import cvxpy as cp
import gymnasium as gym
import numpy as np
import pytest
import torch
from quantecon.markov import DiscreteDP
from random_mdps import random_mdp

from rl_lightning.exact import MDP, PolicyClass, objective, occupancy, soft_policy_iteration, soft_value_iteration


def frozen_lake():
    return MDP.from_env(gym.make("FrozenLake-v1"), 0.95)


MDPS = {
    "random": lambda: random_mdp(0, states=8, actions=3, ends=0.0),
    "random with ends": lambda: random_mdp(1, states=8, actions=3),
    "garnet": lambda: MDP.garnet(30, 4, 3, 0.95, seed=2),
    "frozen lake": frozen_lake,
}


def discrete_dp(mdp):
    """quantecon knows no end: a last state that stays and earns nothing stands for it."""
    states, actions = mdp.reward.shape
    transition = np.zeros((states + 1, actions, states + 1))
    transition[:states, :, :states] = mdp.transition
    transition[:states, :, states] = mdp.termination
    transition[states, :, states] = 1.0
    reward = np.zeros((states + 1, actions))
    reward[:states] = mdp.reward
    return DiscreteDP(reward, transition, mdp.gamma)


@pytest.mark.parametrize(
    "method", ["policy_iteration", "value_iteration", "modified_policy_iteration", "linear_programming"]
)
@pytest.mark.parametrize("name", MDPS)
def test_without_entropy_values_and_policy_are_quantecons(name, method):
    mdp = MDPS[name]()
    theirs = discrete_dp(mdp).solve(method=method, epsilon=1e-7, max_iter=100_000)
    for solve in (soft_policy_iteration, soft_value_iteration):
        ours = solve(mdp, 0.0)
        np.testing.assert_allclose(ours.v, theirs.v[:-1], rtol=0, atol=1e-6)
        of_their_action = ours.q.gather(-1, torch.tensor(theirs.sigma[:-1])[:, None].long())[:, 0]
        torch.testing.assert_close(of_their_action, ours.v, rtol=0, atol=1e-6)  # as good; ties may differ


@pytest.mark.parametrize("ent_coef", [0.05, 1.0])
@pytest.mark.parametrize("name", MDPS)
def test_with_entropy_values_are_those_of_an_exponential_cone_programme(name, ent_coef):
    """V* is the least V with V(s) ≥ α log Σ_a exp(Q(s, a)/α), Q = R + γ P V."""
    mdp = MDPS[name]()
    states, _ = mdp.reward.shape
    v = cp.Variable(states)
    above = []
    for s in range(states):
        q = mdp.reward[s].numpy() + mdp.gamma * mdp.transition[s].numpy() @ v
        above.append(ent_coef * cp.log_sum_exp(q / ent_coef) <= v[s])
    cp.Problem(cp.Minimize(cp.sum(v)), above).solve(solver=cp.CLARABEL)
    for solve in (soft_policy_iteration, soft_value_iteration):
        np.testing.assert_allclose(solve(mdp, ent_coef).v, v.value, rtol=0, atol=2e-5)


@pytest.mark.parametrize("floor", [0.05, 0.2])
def test_with_entropy_and_a_floor_policy_and_occupancy_are_those_of_the_dual_programme(floor):
    """Over occupancy measures ρ(s, a) the regularized objective is concave, and a floor on π a linear constraint."""
    mdp = random_mdp(3, states=5, actions=3)
    ent_coef = 0.3
    rho = cp.Variable((5, 3), nonneg=True)
    visits = cp.sum(rho, axis=1)
    flows = [
        visits[n] == mdp.start[n].item() + mdp.gamma * cp.sum(cp.multiply(rho, mdp.transition[:, :, n].numpy()))
        for n in range(5)
    ]
    entropy = -cp.sum(cp.rel_entr(rho, cp.vstack([visits] * 3).T))
    value = cp.sum(cp.multiply(rho, mdp.reward.numpy())) + ent_coef * entropy
    floors = [rho[s, a] >= floor * visits[s] for s in range(5) for a in range(3)]
    problem = cp.Problem(cp.Maximize(value), flows + floors)
    problem.solve(solver=cp.CLARABEL)
    best = soft_policy_iteration(mdp, ent_coef, PolicyClass(floor=floor))
    assert objective(mdp, best.policy, ent_coef).item() == pytest.approx(problem.value, abs=1e-5)
    np.testing.assert_allclose(occupancy(mdp, best.policy), rho.value, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", MDPS)
def test_without_entropy_the_occupancy_of_the_best_policy_is_the_dual_linear_programme(name):
    mdp = MDPS[name]()
    states, actions = mdp.reward.shape
    rho = cp.Variable((states, actions), nonneg=True)
    flows = [
        cp.sum(rho[n]) == mdp.start[n].item() + mdp.gamma * cp.sum(cp.multiply(rho, mdp.transition[:, :, n].numpy()))
        for n in range(states)
    ]
    problem = cp.Problem(cp.Maximize(cp.sum(cp.multiply(rho, mdp.reward.numpy()))), flows)
    problem.solve(solver=cp.CLARABEL)
    best = soft_policy_iteration(mdp, 0.0)
    ours = occupancy(mdp, best.policy)
    assert problem.value == pytest.approx((ours * mdp.reward).sum().item(), abs=1e-6)
    assert problem.value == pytest.approx((mdp.start * best.v).sum().item(), abs=1e-6)
    if name != "frozen lake":  # whose best policy is not the only one
        np.testing.assert_allclose(ours, rho.value, rtol=0, atol=1e-5)
