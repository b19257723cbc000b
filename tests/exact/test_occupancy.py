import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_mdps import discounts, random_mdp, random_policy, seeds, sparse_of, temperatures

from rl_lightning import UsageError
from rl_lightning.exact import (
    MDP,
    finite_objective,
    objective,
    occupancy,
    policy_gradient,
    soft_policy_evaluation,
    soft_policy_iteration,
    state_occupancy,
)


def trajectories(mdp, policy, steps):
    """Every path of at most `steps` steps with its probability: lists of (state, action)."""
    states, actions = mdp.reward.shape
    for length in range(1, steps + 1):
        for path in itertools.product(range(states), range(actions), repeat=length):
            pairs = [*zip(path[::2], path[1::2], strict=True)]
            probability = mdp.start[pairs[0][0]].item()
            for (s, a), (following, _) in itertools.pairwise(pairs):
                probability *= policy[s, a].item() * mdp.transition[s, a, following].item()
            s, a = pairs[-1]
            ending = mdp.termination[s, a].item() if length < steps else 1.0  # the last step ends in any case
            probability *= policy[s, a].item() * ending
            if probability > 0:
                yield pairs, probability


@pytest.mark.parametrize("last_step", [0, 1, 3])
@pytest.mark.parametrize("ent_coef", [0.0, 0.7])
def test_the_finite_objective_is_equation_1_summed_over_all_trajectories(last_step, ent_coef):
    mdp, policy = random_mdp(4, states=2, actions=2), random_policy(4, (2, 2), zeros=False)
    entropy = -(policy * policy.log()).sum(-1)
    expected, total = 0.0, 0.0
    for pairs, probability in trajectories(mdp, policy, last_step + 1):
        expected += probability * sum(mdp.reward[s, a].item() + ent_coef * entropy[s].item() for s, a in pairs)
        total += probability
    assert total == pytest.approx(1.0)
    assert finite_objective(mdp, policy, ent_coef, last_step).item() == pytest.approx(expected)


@pytest.mark.parametrize("ent_coef", [0.0, 0.7])
def test_the_discounted_objective_is_that_of_all_trajectories_once_gamma_has_forgotten_the_rest(ent_coef):
    mdp, policy = random_mdp(4, states=2, actions=2, gamma=0.03), random_policy(4, (2, 2), zeros=False)
    entropy = -(policy * policy.log()).sum(-1)
    expected = sum(
        probability * 0.03**t * (mdp.reward[s, a].item() + ent_coef * entropy[s].item())
        for pairs, probability in trajectories(mdp, policy, 5)
        for t, (s, a) in enumerate(pairs)
    )
    assert objective(mdp, policy, ent_coef).item() == pytest.approx(expected, abs=1e-6)


def test_without_discount_the_finite_objective_grows_to_the_endless_one():
    mdp, policy = random_mdp(5, gamma=1.0), random_policy(5, (4, 3))
    far = finite_objective(mdp, policy, 0.5, 3000)
    torch.testing.assert_close(far, objective(mdp, policy, 0.5), rtol=0, atol=1e-8)


@given(seeds(), discounts(), temperatures())
@settings(max_examples=40, deadline=None)
def test_primal_and_dual_agree_on_the_objective(seed, gamma, ent_coef):
    mdp, policy = random_mdp(seed, gamma=gamma), random_policy(seed, (4, 3))
    rho = occupancy(mdp, policy)
    entropy = torch.special.entr(policy).sum(-1)
    dual = (rho * (mdp.reward + ent_coef * entropy[:, None])).sum()
    torch.testing.assert_close(objective(mdp, policy, ent_coef), dual, rtol=1e-8, atol=1e-8)
    d = state_occupancy(mdp, policy)
    into = mdp.start + gamma * torch.einsum("sap,sa->p", mdp.transition, rho)
    torch.testing.assert_close(d, into)
    torch.testing.assert_close(rho.sum(-1), d)
    if not mdp.termination.any():
        torch.testing.assert_close(d.sum(), torch.tensor(1 / (1 - gamma), dtype=torch.float64))


def test_the_occupancy_is_the_discounted_sum_of_where_the_state_is():
    mdp, policy = random_mdp(6), random_policy(6, (4, 3))
    here, expected = mdp.start, torch.zeros(4, dtype=torch.float64)
    for t in range(400):
        expected += 0.9**t * here
        here = torch.einsum("s,sa,sap->p", here, policy, mdp.transition)
    torch.testing.assert_close(state_occupancy(mdp, policy), expected)


@pytest.mark.parametrize("slippery", [True, False])
def test_objective_and_occupancy_are_those_of_episodes_in_the_environment(slippery):
    env = gym.make("FrozenLake-v1", is_slippery=slippery, max_episode_steps=2000)
    mdp = MDP.from_env(env, 0.9)
    policy = soft_policy_iteration(mdp, 0.05).policy
    entropy = torch.special.entr(policy).sum(-1)
    rng = np.random.default_rng(0)
    returns, visits = [], np.zeros(16)
    episodes = 800
    obs, _ = env.reset(seed=0)
    for _ in range(episodes):
        discount, total, done = 1.0, 0.0, False
        while not done:
            visits[obs] += discount / episodes
            following, reward, terminated, truncated, _ = env.step(rng.choice(4, p=policy[obs].numpy()))
            total += discount * (reward + 0.05 * entropy[obs].item())
            discount, obs, done = 0.9 * discount, following, terminated or truncated
        returns.append(total)
        obs, _ = env.reset()
    error = np.std(returns) / episodes**0.5
    assert abs(np.mean(returns) - objective(mdp, policy, 0.05).item()) < 4 * error
    assert error < 0.015  # so that the line above says something
    np.testing.assert_allclose(visits, state_occupancy(mdp, policy), atol=0.2)


@given(seeds(), discounts(), temperatures())
@settings(max_examples=40, deadline=None)
def test_the_policy_gradient_is_that_of_autograd_through_the_linear_solve(seed, gamma, ent_coef):
    mdp = random_mdp(seed, gamma=gamma)
    logits = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    policy = torch.softmax(logits, -1)
    moves = torch.einsum("sa,sap->sp", policy, mdp.transition)
    reward = (policy * (mdp.reward - ent_coef * torch.log_softmax(logits, -1))).sum(-1)
    v = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - gamma * moves, reward)
    (oracle,) = torch.autograd.grad((mdp.start * v).sum(), logits)
    torch.testing.assert_close(policy_gradient(mdp, logits.detach(), ent_coef), oracle, rtol=1e-7, atol=1e-9)


def test_the_policy_gradient_is_that_of_finite_differences_of_the_objective():
    mdp, logits = random_mdp(7), torch.randn(4, 3, dtype=torch.float64)
    gradient = policy_gradient(mdp, logits, 0.4)
    for s, a in itertools.product(range(4), range(3)):
        step = torch.zeros_like(logits)
        step[s, a] = 1e-5
        up, down = (objective(mdp, torch.softmax(logits + sign * step, -1), 0.4) for sign in (1, -1))
        assert ((up - down) / 2e-5).item() == pytest.approx(gradient[s, a].item(), abs=1e-8)


@pytest.mark.parametrize("ent_coef", [0.0, 0.3])
def test_the_policy_gradient_is_zero_at_the_optimum_and_climbing_leads_there(ent_coef):
    mdp = random_mdp(8)
    best = soft_policy_iteration(mdp, ent_coef)
    if ent_coef > 0:
        gradient = policy_gradient(mdp, best.q / ent_coef, ent_coef)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-7)
    logits = torch.zeros(4, 3, dtype=torch.float64)
    for _ in range(1000):
        logits = logits + policy_gradient(mdp, logits, ent_coef)
    reached = objective(mdp, torch.softmax(logits, -1), ent_coef)
    assert reached.item() == pytest.approx((mdp.start * best.v).sum().item(), abs=2e-2 if ent_coef == 0 else 1e-3)


# many at once, and sparse


@given(seeds(), discounts(), temperatures())
@settings(max_examples=15, deadline=None)
def test_many_mdps_at_once_are_each_by_itself(seed, gamma, ent_coef):
    mdp = random_mdp(seed, gamma=gamma, batch=(2, 3))
    policy = random_policy(seed, (2, 3, 4, 3))
    logits = torch.randn(2, 3, 4, 3, dtype=torch.float64)
    values, best = soft_policy_evaluation(mdp, policy, ent_coef), soft_policy_iteration(mdp, ent_coef)
    for place in itertools.product(range(2), range(3)):
        one = MDP(mdp.transition[place], mdp.reward[place], gamma, mdp.termination[place], mdp.start[place])
        alone = soft_policy_evaluation(one, policy[place], ent_coef)
        torch.testing.assert_close(values.q[place], alone.q)
        torch.testing.assert_close(values.v[place], alone.v)
        best_alone = soft_policy_iteration(one, ent_coef)
        torch.testing.assert_close(best.q[place], best_alone.q, rtol=0, atol=2e-8)
        for function in (
            lambda m, p: occupancy(m, p),
            lambda m, p: objective(m, p, ent_coef),
            lambda m, p: finite_objective(m, p, ent_coef, 5),
        ):
            torch.testing.assert_close(function(mdp, policy)[place], function(one, policy[place]))
        gradient = policy_gradient(mdp, logits, ent_coef)[place]
        torch.testing.assert_close(gradient, policy_gradient(one, logits[place], ent_coef))


@given(seeds(), discounts(), temperatures(), st.sampled_from([3, 40]))
@settings(max_examples=25, deadline=None)
def test_a_sparse_mdp_gives_what_the_dense_one_gives(seed, gamma, ent_coef, states):
    dense = random_mdp(seed, states=states, gamma=gamma)
    sparse = sparse_of(dense)
    policy = random_policy(seed, (states, 3))
    for method in ("solve", "iterate"):
        ours = soft_policy_evaluation(sparse, policy, ent_coef, method)
        theirs = soft_policy_evaluation(dense, policy, ent_coef)
        torch.testing.assert_close(ours.q, theirs.q, rtol=0, atol=1e-8 + ours.error)
        torch.testing.assert_close(ours.v, theirs.v, rtol=0, atol=1e-8 + ours.error)
    torch.testing.assert_close(occupancy(sparse, policy), occupancy(dense, policy), rtol=0, atol=2e-8)
    best, best_dense = soft_policy_iteration(sparse, ent_coef), soft_policy_iteration(dense, ent_coef)
    torch.testing.assert_close(best.q, best_dense.q, rtol=0, atol=2e-8)
    for function in (lambda m: objective(m, policy, ent_coef), lambda m: finite_objective(m, policy, ent_coef, 5)):
        torch.testing.assert_close(function(sparse), function(dense), rtol=1e-7, atol=2e-8)
    gradient = policy_gradient(sparse, policy.log().clamp(min=-5), ent_coef)
    expected = policy_gradient(dense, policy.log().clamp(min=-5), ent_coef)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-6)


def walk(states, gamma):
    """A ring on which one drifts slowly: the case that a Krylov method finds hard, and its start far from the end."""
    transition = torch.zeros(states, 2, states, dtype=torch.float64)
    here = torch.arange(states)
    transition[here, 0, (here + 1) % states] = 1.0
    transition[here, 1, (here - 1) % states] = 1.0
    reward = torch.zeros(states, 2)
    reward[0] = 1.0
    return MDP(transition, reward, gamma)


@pytest.mark.parametrize(("gamma", "right"), [(0.9, 1.0), (0.99, 1.0), (0.999, 0.5), (0.999, 0.6)])
def test_the_krylov_method_gets_there_on_long_rings(gamma, right):
    dense = walk(300, gamma)
    policy = torch.tensor([right, 1 - right], dtype=torch.float64).expand(300, 2)
    exact = soft_policy_evaluation(dense, policy, 0.1)
    krylov = soft_policy_evaluation(sparse_of(dense), policy, 0.1)
    assert krylov.error < 1e-7
    torch.testing.assert_close(krylov.v, exact.v, rtol=0, atol=krylov.error + 1e-8)
    torch.testing.assert_close(
        state_occupancy(sparse_of(dense), policy), state_occupancy(dense, policy), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("kind", [torch.Tensor.float, torch.Tensor.numpy, torch.Tensor.tolist])
def test_policies_of_float32_arrays_and_lists_are_taken_too(kind):
    mdp, policy = random_mdp(0), random_policy(0, (4, 3))
    for function in (occupancy, lambda m, p: objective(m, p, 0.3), lambda m, p: finite_objective(m, p, 0.3, 4)):
        torch.testing.assert_close(function(mdp, kind(policy)), function(mdp, policy), rtol=1e-5, atol=1e-5)
    logits = torch.randn(4, 3).double()
    expected = policy_gradient(mdp, logits, 0.3)
    torch.testing.assert_close(policy_gradient(mdp, kind(logits), 0.3), expected, rtol=1e-5, atol=1e-5)


def test_a_sparse_mdp_takes_one_policy_at_a_time():
    mdp = sparse_of(random_mdp(0))
    for function in (state_occupancy, lambda m, p: soft_policy_evaluation(m, p, 0.1)):
        with pytest.raises(UsageError, match=r"policy.shape=\[2, 4, 3\].*takes one policy"):
            function(mdp, random_policy(0, (2, 4, 3)))


def test_arguments_out_of_range_are_refused():
    mdp, policy = random_mdp(0), random_policy(0, (4, 3))
    with pytest.raises(UsageError, match="last_step=-1"):
        finite_objective(mdp, policy, 0.1, -1)
    for function in (occupancy, lambda m, p: finite_objective(m, p, 0.1, 3), lambda m, p: objective(m, p, 0.1)):
        with pytest.raises(UsageError, match=r"policy\[0\]"):
            function(mdp, 2 * policy)
