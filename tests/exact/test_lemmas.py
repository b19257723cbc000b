"""The lemmas of the lecture's section 5.1, with the temperature α written out, on random MDPs and on toy text."""

import itertools
import math

import gymnasium as gym
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_mdps import discounts, random_mdp, random_policy, seeds, temperatures

from rl_lightning import UsageError, functional
from rl_lightning.exact import (
    MDP,
    PolicyClass,
    bellman_backup,
    soft_bellman_backup,
    soft_policy_evaluation,
    soft_policy_improvement,
    soft_policy_iteration,
    soft_state_value,
    soft_value_iteration,
)

TOY_TEXT = {
    "frozen lake": ("FrozenLake-v1", {}),
    "frozen lake, not slippery": ("FrozenLake-v1", {"is_slippery": False}),
    "cliff": ("CliffWalking-v1", {}),
    "slippery cliff": ("CliffWalking-v1", {"is_slippery": True}),
    "rainy taxi": ("Taxi-v4", {"is_rainy": True}),
}


def toy(name, gamma=0.95):
    env_id, options = TOY_TEXT[name]
    return MDP.from_env(gym.make(env_id, **options), gamma)


def by_hand(mdp, v, policy, ent_coef):
    """Equations 2 and 3 number by number: Q of v, and V of that Q."""
    states, actions = mdp.reward.shape
    q = [
        [
            mdp.reward[s, a].item()
            + mdp.gamma * sum(mdp.transition[s, a, n].item() * v[n].item() for n in range(states))
            for a in range(actions)
        ]
        for s in range(states)
    ]
    new = [
        sum(p * (q[s][a] - ent_coef * math.log(p)) for a, p in enumerate(row) if p > 0)
        for s, row in enumerate(policy.tolist())
    ]
    return torch.tensor(q, dtype=torch.float64), torch.tensor(new, dtype=torch.float64)


def test_the_backup_is_the_one_computed_by_hand():
    # from state 0, action 0 stays or moves, half each; action 1 ends with a quarter
    transition = torch.tensor([[[0.5, 0.5], [0.0, 0.75]], [[1.0, 0.0], [0.0, 1.0]]])
    mdp = MDP(transition, torch.tensor([[1.0, 2.0], [0.0, -1.0]]), 0.5, torch.tensor([[0.0, 0.25], [0.0, 0.0]]))
    q = bellman_backup(mdp, torch.tensor([4.0, 8.0], dtype=torch.float64))
    assert q.tolist() == [[1 + 0.5 * 6, 2 + 0.5 * 6], [0.5 * 4, -1 + 0.5 * 8]]
    policy = torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    log_2 = torch.log(torch.tensor(2.0, dtype=torch.float64)).item()
    assert soft_state_value(q, policy, 3.0).tolist() == pytest.approx([4.5 + 3 * log_2, 2.0])


@given(seeds(), discounts(), temperatures())
@settings(max_examples=25, deadline=None)
def test_the_backup_is_that_of_a_loop_over_numbers(seed, gamma, ent_coef):
    mdp, policy = random_mdp(seed, gamma=gamma), random_policy(seed, (4, 3))
    v = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    q, new = by_hand(mdp, v, policy, ent_coef)
    torch.testing.assert_close(bellman_backup(mdp, v), q)
    torch.testing.assert_close(soft_state_value(q, policy, ent_coef), new)
    torch.testing.assert_close(soft_bellman_backup(mdp, q, policy, ent_coef), bellman_backup(mdp, new))


# Lemma 1


@given(seeds(), discounts(), temperatures(), st.floats(0.1, 1e4))
@settings(max_examples=60, deadline=None)
def test_lemma_1_evaluation_contracts_by_gamma_in_the_sup_norm(seed, gamma, ent_coef, scale):
    mdp, policy = random_mdp(seed, gamma=gamma), random_policy(seed, (4, 3))
    first, second = scale * torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    before = (first - second).abs().max()
    after = soft_bellman_backup(mdp, first, policy, ent_coef) - soft_bellman_backup(mdp, second, policy, ent_coef)
    assert after.abs().max() <= gamma * before + 1e-12 * scale


def test_lemma_1_the_contraction_is_no_faster_than_gamma_where_nothing_ends():
    mdp, policy = random_mdp(0, ends=0.0), random_policy(0, (4, 3))
    q = torch.randn(4, 3, dtype=torch.float64)
    apart = soft_bellman_backup(mdp, q + 1.0, policy, 1.0) - soft_bellman_backup(mdp, q, policy, 1.0)
    torch.testing.assert_close(apart, torch.full_like(q, 0.9))


@given(seeds(), discounts(), temperatures())
@settings(max_examples=40, deadline=None)
def test_lemma_1_the_fixed_point_solves_the_linear_system(seed, gamma, ent_coef):
    mdp, policy = random_mdp(seed, gamma=gamma), random_policy(seed, (4, 3))
    solved = soft_policy_evaluation(mdp, policy, ent_coef)
    iterated = soft_policy_evaluation(mdp, policy, ent_coef, method="iterate", tolerance=1e-9)
    torch.testing.assert_close(iterated.q, solved.q, rtol=0, atol=1.1e-9 + iterated.error)
    torch.testing.assert_close(iterated.v, solved.v, rtol=0, atol=1.1e-9 + iterated.error)
    again = soft_bellman_backup(mdp, solved.q, policy, ent_coef)
    torch.testing.assert_close(again, solved.q, rtol=1e-9, atol=1e-9)
    states = range(4)  # (I − γ P_π) V = R_π, in numbers of its own
    moves = torch.stack([sum(policy[s, a] * mdp.transition[s, a] for a in range(3)) for s in states])
    entropy = torch.stack([torch.distributions.Categorical(policy[s]).entropy() for s in states])
    reward = (policy * mdp.reward).sum(-1) + ent_coef * entropy
    torch.testing.assert_close(solved.v - gamma * moves @ solved.v, reward, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["solve", "iterate"])
@pytest.mark.parametrize("name", TOY_TEXT)
def test_the_certified_error_holds_on_toy_text(name, method):
    mdp = toy(name)
    policy = random_policy(1, mdp.reward.shape)
    values = soft_policy_evaluation(mdp, policy, 0.1, method, tolerance=1e-4 if method == "iterate" else 1e-8)
    truth = torch.linalg.solve(
        torch.eye(len(mdp.start), dtype=torch.float64) - 0.95 * torch.einsum("sap,sa->sp", mdp.transition, policy),
        (policy * mdp.reward + 0.1 * torch.special.entr(policy)).sum(-1),
    )
    assert values.error <= (1e-4 if method == "iterate" else 1e-8)
    assert (values.v - truth).abs().max() <= values.error + 1e-10
    assert (values.q - bellman_backup(mdp, truth)).abs().max() <= values.error + 1e-10


# Lemma 2


def classes(seed, shape):
    """All policies; a random subset of actions; a floor; a floor for each action within a subset."""
    g = torch.Generator().manual_seed(seed)
    allowed = torch.rand(shape, generator=g) < 0.6
    allowed[..., seed % shape[-1]] = True
    floors = torch.rand(shape, dtype=torch.float64, generator=g) / shape[-1]
    return [None, PolicyClass(allowed), PolicyClass(floor=0.1), PolicyClass(allowed, floors)]


def member(within, seed, shape):
    """A random policy in the class."""
    policy = random_policy(seed, shape)
    if within is None:
        return policy
    allowed, floor = within.limits(policy)
    policy = policy * allowed + 1e-3 * allowed
    return floor + (1 - floor.sum(-1, keepdim=True)) * policy / policy.sum(-1, keepdim=True)


@given(seeds(), discounts(), temperatures(), st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_lemma_2_and_equation_5_each_improvement_raises_q_everywhere_within_the_class(seed, gamma, ent_coef, which):
    mdp = random_mdp(seed, gamma=gamma)
    within = classes(seed, (4, 3))[which]
    old_policy = member(within, seed, (4, 3))
    old = soft_policy_evaluation(mdp, old_policy, ent_coef)
    policy = soft_policy_improvement(old.q, ent_coef, within)
    assert (soft_state_value(old.q, policy, ent_coef) >= old.v - 1e-9).all()  # Equation 5
    new = soft_policy_evaluation(mdp, policy, ent_coef)
    assert (new.q >= old.q - 1e-9).all()  # Lemma 2
    assert (new.v >= old.v - 1e-9).all()


@pytest.mark.parametrize("name", TOY_TEXT)
@pytest.mark.parametrize("which", range(4))
def test_lemma_2_on_toy_text_step_by_step(name, which):
    mdp = toy(name)
    within = classes(which, mdp.reward.shape)[which]
    policy = member(within, 0, mdp.reward.shape)
    old = soft_policy_evaluation(mdp, policy, 0.1)
    gains = []
    for _ in range(4):
        new = soft_policy_evaluation(mdp, soft_policy_improvement(old.q, 0.1, within), 0.1)
        assert (new.q >= old.q - 1e-8).all()
        gains.append((new.q - old.q).max().item())
        old = new
    assert gains[0] > 1e-3  # so that the test can fail


# Lemma 3


@given(seeds(), discounts(), temperatures(), st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_lemma_3_policy_iteration_reaches_the_fixed_point_of_value_iteration_from_any_policy(
    seed, gamma, ent_coef, which
):
    mdp = random_mdp(seed, gamma=gamma)
    within = classes(seed, (4, 3))[which]
    by_value = soft_value_iteration(mdp, ent_coef, within, tolerance=1e-9)
    for begin in (None, member(within, seed, (4, 3))):
        by_policy = soft_policy_iteration(mdp, ent_coef, within, begin, tolerance=1e-9)
        bound = 1e-10 + by_value.error + by_policy.error
        torch.testing.assert_close(by_policy.v, by_value.v, rtol=0, atol=bound)
        torch.testing.assert_close(by_policy.q, by_value.q, rtol=0, atol=bound)
    if which == 0 and ent_coef > 0.0:
        v = ent_coef * torch.logsumexp(by_policy.q / ent_coef, -1)  # the soft Bellman equation itself
        torch.testing.assert_close(by_policy.v, v, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(by_policy.v, functional.soft_maximum(by_policy.q, ent_coef), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(by_policy.policy, torch.softmax(by_policy.q / ent_coef, -1), rtol=1e-6, atol=1e-9)


@given(seeds(), temperatures(), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_lemma_3_no_policy_of_the_class_is_better_in_any_state(seed, ent_coef, which):
    mdp = random_mdp(seed)
    within = classes(seed, (4, 3))[which]
    best = soft_policy_iteration(mdp, ent_coef, within)
    others = torch.stack([member(within, other, (4, 3)) for other in range(seed, seed + 100)])
    values = soft_policy_evaluation(mdp, others, ent_coef)  # of a hundred policies at once
    assert values.q.shape == (100, 4, 3)
    assert (values.q <= best.q + 2e-8).all()


@pytest.mark.parametrize("ent_coef", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("floor", [0.0, 0.15])
@pytest.mark.parametrize("seed", range(3))
def test_lemma_3_the_limit_is_the_best_of_a_search_over_a_grid_of_policies(seed, floor, ent_coef):
    mdp = random_mdp(seed, states=2, actions=2)
    grid = torch.linspace(floor, 1.0 - floor, 401, dtype=torch.float64)
    first, second = torch.meshgrid(grid, grid, indexing="ij")
    policies = torch.stack([torch.stack([p, 1 - p], -1) for p in (first.flatten(), second.flatten())], 1)  # [N, S, A]
    values = soft_policy_evaluation(mdp, policies, ent_coef).v  # [N, S]
    best = soft_policy_iteration(mdp, ent_coef, PolicyClass(floor=floor))
    assert (values <= best.v + 1e-8).all()
    assert (best.v - values.amax(0) < 1e-3).all()  # each of the best of the grid is near
    at = values.sum(-1).argmax()
    assert (best.policy - policies[at]).abs().max() < 2 / 400 + 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_lemma_3_at_temperature_zero_the_limit_is_the_best_of_all_deterministic_policies_within_the_subset(seed):
    mdp = random_mdp(seed)
    allowed = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 1], [1, 0, 0]], dtype=torch.bool)
    best = soft_policy_iteration(mdp, 0.0, PolicyClass(allowed))
    choices = itertools.product(*[row.nonzero()[:, 0].tolist() for row in allowed])
    policies = torch.nn.functional.one_hot(torch.tensor([*choices]), 3).double()  # [12, S, A]
    values = soft_policy_evaluation(mdp, policies, 0.0).v
    torch.testing.assert_close(values.amax(0), best.v, rtol=0, atol=1e-8)
    assert torch.equal(policies[values.sum(-1).argmax()], best.policy)


@pytest.mark.parametrize("name", TOY_TEXT)
def test_the_limit_of_temperatures_is_the_conventional_solution_and_nothing_overflows(name):
    mdp = toy(name)
    conventional = soft_policy_iteration(mdp, 0.0)
    for ent_coef in (1e-3, 1e-6, 1e-12, 1e-300, 5e-324):
        for solve in (soft_policy_iteration, soft_value_iteration):
            soft = solve(mdp, ent_coef)
            assert soft.q.isfinite().all()
            assert soft.policy.isfinite().all()
            gap = ent_coef * torch.log(torch.tensor(6.0)) * mdp.horizon  # the most that entropy is worth
            assert (soft.v - conventional.v).abs().max() <= gap + 2e-8


@given(seeds(), st.sampled_from([1e-150, 1e-3, 1e6, 1e150]))
@settings(max_examples=20, deadline=None)
def test_rewards_and_temperature_scaled_by_one_factor_scale_the_values_and_leave_the_policy(seed, factor):
    mdp = random_mdp(seed)
    scaled = MDP(mdp.transition, factor * mdp.reward, mdp.gamma, mdp.termination)
    plain = soft_policy_iteration(mdp, 0.3, tolerance=1e-12)
    large = soft_policy_iteration(scaled, 0.3 * factor, tolerance=1e-12 * factor)
    torch.testing.assert_close(large.v / factor, plain.v, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(large.policy, plain.policy, rtol=1e-6, atol=1e-9)


@given(seeds(), st.sampled_from([0.9, 0.999, 0.99999]), st.sampled_from([1.0, 1e9]), temperatures())
@settings(max_examples=20, deadline=None)
def test_a_tolerance_that_float64_cannot_reach_ends_with_the_bound_that_it_has(seed, gamma, scale, ent_coef):
    mdp = random_mdp(seed, states=3, actions=2, gamma=gamma, ends=0.0)
    mdp = MDP(mdp.transition, scale * mdp.reward, gamma)
    values = soft_policy_iteration(mdp, ent_coef, tolerance=1e-300)
    assert 0.0 <= values.error <= 1e-12 / (1 - gamma) * (values.q.abs().max() + 1)


def test_of_equally_good_actions_temperature_zero_takes_the_first():
    q = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]], dtype=torch.float64)
    assert soft_policy_improvement(q, 0.0).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_the_history_of_errors_stays_under_the_powers_of_gamma():
    mdp, policy = random_mdp(2, ends=0.0, gamma=0.8), random_policy(2, (4, 3))
    truth = soft_policy_evaluation(mdp, policy, 0.5).q
    q = torch.zeros_like(truth)
    first = truth.abs().max()
    for k in range(1, 30):
        q = soft_bellman_backup(mdp, q, policy, 0.5)
        assert (q - truth).abs().max() <= 0.8**k * first + 1e-12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, p: soft_policy_evaluation(m, p, -1.0), "ent_coef=-1.0"),
        (lambda m, p: soft_policy_evaluation(m, p, float("nan")), "ent_coef=nan"),
        (lambda m, p: soft_policy_evaluation(m, p, 1.0, tolerance=0.0), "tolerance=0.0"),
        (lambda m, p: soft_policy_evaluation(m, p, 1.0, method="guess"), "method='guess'.*'solve' or 'iterate'"),
        (lambda m, p: soft_policy_evaluation(m, p[:, :2], 1.0), r"policy.shape=\[4, 2\].*\[4, 3\]"),
        (lambda m, p: soft_policy_evaluation(m, 2 * p, 1.0), r"policy\[0\] \(state\) is 2.0: give 1 as the sum"),
        (lambda m, p: soft_policy_evaluation(m, p - 0.5, 1.0), r"policy\[0, 0\] \(state, action\) is -0"),
        (lambda m, p: soft_policy_evaluation(m, p * torch.nan, 1.0), r"policy\[0, 0\] .* is nan"),
        (lambda m, p: soft_policy_iteration(m, -0.1), "ent_coef=-0.1"),
        (lambda m, p: soft_policy_iteration(m, 0.1, tolerance=-1.0), "tolerance=-1.0"),
        (lambda m, p: soft_value_iteration(m, float("inf")), "ent_coef=inf"),
        (lambda m, p: soft_value_iteration(m, 0.1, tolerance=0.0), "tolerance=0.0"),
        (lambda m, p: soft_policy_iteration(m, 0.1, policy=p + 0.1), r"policy\[0\]"),
    ],
)
def test_arguments_out_of_range_are_refused_in_one_line(call, message):
    with pytest.raises(UsageError, match=message) as refused:
        call(random_mdp(0), random_policy(0, (4, 3), zeros=False))
    assert "\n" not in str(refused.value)
