from itertools import islice

import gymnasium as gym
import pytest
import torch
from random_mdps import random_mdp, random_policy, sparse_of

from rl_lightning import UsageError
from rl_lightning.exact import MDP, soft_policy_evaluation, soft_policy_iteration
from rl_lightning.exact.tabular import (
    METHODS,
    Step,
    control,
    double_q,
    epsilon_greedy,
    expected_q,
    monte_carlo,
    sampler,
    td_0,
    two_states,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def scripted(*rows):
    """A sampler that plays back (reward, next state, terminated), for one run."""
    rows = iter(rows)

    def step(state, action):
        reward, next_state, terminated = next(rows)
        return Step(
            state, action, torch.tensor([reward]).double(), torch.tensor([next_state]), torch.tensor([terminated])
        )

    return step


def after_one_step(method, terminated=False, epsilon=0.0):
    """From state 0 with its only action 0, reward 1, to state 1 with Q = [2, 4, −6]; rate ½, γ = 0.9."""
    inf = float("inf")
    q = torch.tensor([[[10.0, -inf, -inf], [2.0, 4.0, -6.0]]], dtype=torch.float64)  # [N, S, A]
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    steps = control(method, scripted((1.0, 1, terminated)), start, q, 0.9, 0.5, epsilon, seeded())
    return next(steps)


def test_q_learning_takes_the_best_by_hand():
    _, tables = after_one_step("q_learning", epsilon=0.3)
    assert tables[0, 0, 0, 0].item() == pytest.approx(10 + 0.5 * (1 + 0.9 * 4 - 10))
    assert tables[0, 0, 1].tolist() == [2.0, 4.0, -6.0]  # nothing else moves


def test_expected_sarsa_takes_the_policys_mean_by_hand():
    _, tables = after_one_step("expected_sarsa", epsilon=0.3)
    mean = 0.1 * 2 + (0.1 + 0.7) * 4 + 0.1 * -6
    assert tables[0, 0, 0, 0].item() == pytest.approx(10 + 0.5 * (1 + 0.9 * mean - 10))


def test_sarsa_takes_the_action_that_it_will_take_next():
    q = torch.tensor([[10.0, -torch.inf, -torch.inf], [2.0, 4.0, -6.0]]).double().expand(200, 2, 3)
    seen = []

    def step(state, action):
        seen.append(action.clone())
        n = len(state)
        return Step(state, action, torch.ones(n).double(), torch.ones_like(state), torch.zeros(n, dtype=torch.bool))

    steps = control("sarsa", step, torch.tensor([1.0, 0.0]).double(), q, 0.9, 0.5, 1.0, seeded())
    _, tables = next(steps)
    learned = tables[0, :, 0, 0].clone()
    next(steps)
    of_action = torch.tensor([2.0, 4.0, -6.0]).double()[seen[1]]
    assert seen[1].bincount(minlength=3).min() > 40  # ε = 1 takes all of them
    torch.testing.assert_close(learned, 10 + 0.5 * (1 + 0.9 * of_action - 10))


@pytest.mark.parametrize("method", ["sarsa", "expected_sarsa", "q_learning", "double_q_learning"])
def test_what_follows_an_end_is_worth_nothing(method):
    _, tables = after_one_step(method, terminated=True, epsilon=0.3)
    assert tables[:, 0, 0, 0].min().item() == pytest.approx(10 + 0.5 * (1 - 10))


def test_double_q_learning_lets_one_table_choose_and_the_other_judge_by_hand():
    chooser, judge = torch.tensor([[1.0, 5.0, 3.0]]), torch.tensor([[7.0, -2.0, 9.0]])
    assert double_q(chooser, judge).tolist() == [-2.0]
    assert double_q(judge, chooser).tolist() == [3.0]
    assert double_q(judge, judge).tolist() == [9.0]


def test_double_q_learning_moves_one_table_at_a_time_and_each_as_often():
    runs = 2000
    q = torch.zeros(runs, 1, 1, dtype=torch.float64)

    def step(state, action):
        n = len(state)
        return Step(state, action, torch.ones(n).double(), state, torch.ones(n, dtype=torch.bool))

    _, tables = next(control("double_q_learning", step, torch.ones(1).double(), q, 0.9, 0.5, 0.1, seeded()))
    assert (tables.sum(0) == 0.5).all()  # one of the two has moved
    assert 0.45 < (tables[0] > 0).double().mean() < 0.55


def test_double_q_learning_uses_the_other_table_where_its_own_would_differ():
    runs = 400
    q = torch.zeros(runs, 2, 2, dtype=torch.float64)
    q[:, 0, 1] = -torch.inf

    def step(state, action):
        n = len(state)
        return Step(state, action, torch.zeros(n).double(), torch.ones_like(state), torch.zeros(n, dtype=torch.bool))

    steps = control("double_q_learning", step, torch.tensor([1.0, 0.0]).double(), q, 1.0, 1.0, 1.0, seeded())
    _, tables = next(steps)
    tables[0, :, 1] = torch.tensor([3.0, 1.0]).double()  # table A would choose 0, which B judges with 10
    tables[1, :, 1] = torch.tensor([10.0, 20.0]).double()  # table B would choose 1, which A judges with 1
    step_2, tables = next(steps)
    entries = tables[:, torch.arange(runs), step_2.state, step_2.action]  # [K, N]
    # state 1 leads to itself: whichever table learns takes the other's word, with γ = 1 and rate 1
    own = torch.stack(
        [torch.tensor([3.0, 1.0]).double()[step_2.action], torch.tensor([10.0, 20.0]).double()[step_2.action]]
    )
    expected_if_a, expected_if_b = torch.full((runs,), 10.0).double(), torch.full((runs,), 1.0).double()
    a_learned = (entries[0] == expected_if_a) & (entries[1] == own[1])
    b_learned = (entries[1] == expected_if_b) & (entries[0] == own[0])
    assert (a_learned ^ b_learned).all()
    assert 0.4 < a_learned.double().mean() < 0.6


def test_epsilon_greedy_shares_ties_and_leaves_out_what_a_state_has_not():
    q = torch.tensor([[1.0, 1.0, 0.0, -torch.inf], [0.0, 2.0, 0.0, 0.0]], dtype=torch.float64)
    assert epsilon_greedy(q, 0.3)[0].tolist() == pytest.approx([0.45, 0.45, 0.1, 0.0])
    assert epsilon_greedy(q, 0.4)[1].tolist() == pytest.approx([0.1, 0.7, 0.1, 0.1])
    assert expected_q(q, epsilon_greedy(q, 0.3))[0].item() == pytest.approx(0.9)


def chain():
    """Deterministic: right, right, end with 1; left ends with 0.2. With γ = ½ right is worth ¼, ½, 1."""
    transition = torch.zeros(3, 2, 3)
    transition[0, 1, 1] = transition[1, 1, 2] = 1.0
    termination, reward = torch.zeros(3, 2), torch.tensor([[0.2, 0.0], [0.2, 0.0], [0.2, 1.0]])
    termination[:, 0] = termination[2, 1] = 1.0
    return MDP(transition, reward, 0.5, termination)


@pytest.mark.parametrize("method", ["q_learning", "double_q_learning"])
def test_q_learning_of_a_deterministic_mdp_becomes_the_exact_optimal_values(method):
    mdp = chain()
    q = torch.zeros(20, 3, 2, dtype=torch.float64)
    steps = control(method, sampler(mdp, seeded(1)), mdp.start, q, 0.5, 0.5, 0.5, seeded(2))
    *_, (_, tables) = islice(steps, 1000)
    exact = soft_policy_iteration(mdp, 0.0).q
    torch.testing.assert_close(tables, exact.expand_as(tables), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["sarsa", "expected_sarsa", "q_learning", "double_q_learning"])
def test_with_falling_step_sizes_tables_converge_to_exact_values_of_a_random_mdp(method):
    mdp = random_mdp(11, states=3, actions=2, gamma=0.5)
    q = torch.zeros(150, 3, 2, dtype=torch.float64)
    steps = control(method, sampler(mdp, seeded(1)), mdp.start, q, 0.5, 1.0, 1.0, seeded(2), decay=0.7)
    *_, (_, tables) = islice(steps, 1200)
    off_policy = method in ("q_learning", "double_q_learning")
    uniform = torch.full((3, 2), 0.5, dtype=torch.float64)  # ε = 1 acts so
    exact = soft_policy_iteration(mdp, 0.0).q if off_policy else soft_policy_evaluation(mdp, uniform, 0.0).q
    assert (soft_policy_iteration(mdp, 0.0).q - soft_policy_evaluation(mdp, uniform, 0.0).q).abs().max() > 0.3
    assert (tables.mean((0, 1)) - exact).abs().max() < 0.03


def test_monte_carlo_evaluation_gives_exact_values_within_its_standard_errors():
    for mdp in (random_mdp(12), MDP.from_env(gym.make("FrozenLake-v1"), 0.95)):
        policy = random_policy(3, mdp.reward.shape)
        v, error = monte_carlo(mdp, policy, 2000, 150, seeded())
        exact = soft_policy_evaluation(mdp, policy, 0.0).v
        known = (error > 0) & error.isfinite()
        assert ((v - exact)[known].abs() < 4.5 * error[known] + 1e-6).all()
        assert known.sum() >= 4
        assert error[known].max() < 0.2


def test_td_0_gives_exact_values():
    mdp, policy = random_mdp(13, gamma=0.5), random_policy(13, (4, 3))
    steps = td_0(mdp, policy, torch.zeros(200, 4, dtype=torch.float64), 1.0, seeded(), decay=0.7)
    *_, (_, v) = islice(steps, 1500)
    assert (v.mean(0) - soft_policy_evaluation(mdp, policy, 0.0).v).abs().max() < 0.02


def test_td_0_moves_by_hand():
    mdp = chain()
    policy = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(3, 2)
    mdp.start = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    steps = td_0(mdp, policy, torch.tensor([[3.0, 4.0, 6.0]], dtype=torch.float64), 0.5, seeded())
    _, v = next(steps)
    assert v.tolist() == [[3.0, 4 + 0.5 * (0 + 0.5 * 6 - 4), 6.0]]
    _, v = next(steps)
    assert v.tolist() == [[3.0, 3.5, 6 + 0.5 * (1 - 6)]]


def left_of_the_last_episodes(method, runs=1000, episodes=200):
    """The share of runs that go left in each episode, and what left seems to be worth at most."""
    sample, q = two_states(seeded(1))
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    steps = control(method, sample, start, q.expand(runs, -1, -1), 1.0, 0.1, 0.1, seeded(2))
    episode, lefts, highest = torch.zeros(runs, dtype=torch.long), torch.zeros(episodes + 1), -torch.inf
    for step, tables in steps:
        lefts.index_add_(0, episode.clamp(max=episodes)[step.state == 0], (step.action == 0)[step.state == 0].float())
        highest = max(highest, tables[..., 0, 0].mean().item())
        episode += step.terminated
        if (episode >= episodes).all():
            return lefts[:episodes] / runs, highest
    raise AssertionError


def test_the_maximization_bias_of_q_learning_is_there_and_double_q_learning_has_little_of_it():
    biased, biased_value = left_of_the_last_episodes("q_learning")
    double, double_value = left_of_the_last_episodes("double_q_learning")
    assert biased[:50].max() > 0.65  # far more than half go left, though left is worth −0.1
    assert double[10:].max() < 0.5
    assert biased[-20:].mean() > double[-20:].mean() > 0.05  # ε alone gives 5 %
    assert biased_value > 0.1 > double_value


def test_what_cannot_be_sampled_and_unknown_methods_are_refused():
    with pytest.raises(UsageError, match="give one dense MDP"):
        sampler(sparse_of(random_mdp(0)), seeded())
    with pytest.raises(UsageError, match=r"method='best' .*sarsa, expected_sarsa, q_learning, double_q_learning"):
        next(control("best", None, torch.ones(1), torch.zeros(1, 1, 1), 0.9, 0.1, 0.1, seeded()))
    with pytest.raises(UsageError, match=r"policy\[0\]"):
        monte_carlo(random_mdp(0), torch.ones(4, 3), 10, 10, seeded())
    with pytest.raises(UsageError, match=r"policy\[0\]"):
        next(td_0(random_mdp(0), torch.ones(4, 3), torch.zeros(1, 4), 0.1, seeded()))


@pytest.mark.parametrize("method", METHODS)
def test_the_first_action_of_an_episode_is_one_of_its_first_state(method):
    sample, q = two_states(seeded(0))
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    runs = control(method, sample, start, q.expand(20, 2, 10), 0.9, 0.1, 0.5, seeded(1))
    steps = [step for step, _ in islice(runs, 100)]
    assert all(bool((step.action[step.state == 0] < 2).all()) for step in steps)
    assert any(bool((step.state == 1).any()) for step in steps)


def test_the_two_states_pay_what_the_example_says():
    sample, _ = two_states(seeded(0))
    step = sample(torch.tensor([1]).expand(100_000), torch.zeros(100_000, dtype=torch.int64))
    assert step.reward.mean() == pytest.approx(-0.1, abs=0.015)  # 4.5 standard errors
    assert step.reward.std() == pytest.approx(1.0, abs=0.015)
    left_and_right = sample(torch.tensor([0, 0]), torch.tensor([0, 1]))
    assert left_and_right.reward.tolist() == [0.0, 0.0]
    assert left_and_right.terminated.tolist() == [False, True]
    assert left_and_right.next_state[0] == 1


def test_td_0_begins_each_episode_at_the_start():
    nowhere, ends = torch.zeros(3, 1, 3), torch.ones(3, 1)
    mdp = MDP(nowhere, torch.ones(3, 1), 0.9, ends, start=[0.0, 0.0, 1.0])
    *_, (_, v) = islice(td_0(mdp, torch.ones(3, 1), torch.zeros(1, 3, dtype=torch.float64), 0.5, seeded(0)), 5)
    assert v.tolist() == [[0.0, 0.0, 1.0 - 0.5**5]]
