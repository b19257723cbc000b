"""Linear-quadratic control: its closed forms against each other, against samples, and a horizon worked out by hand."""

import pytest
import torch

from benchmarks.linear_quadratic import LinearPolicy, LinearQuadratic, double
from benchmarks.variance_parts import BEST, Parts, exact_parts, sampled_parts
from rl_lightning.estimators import likelihood_ratio

PROBLEM = LinearQuadratic(horizon=4, gamma=0.9)


def mean_and_error(x):
    return float(x.mean()), 4.5 * float(x.std()) / len(x) ** 0.5


def test_one_step_of_one_number_is_worked_out_by_hand():
    # r = −2 s² − 3 a², a = 0.5 s + σ ξ with σ² = 0.25, s ~ N(0, 4): J = −(2 + 0.75) 4 − 3 · 0.25
    one = LinearQuadratic(
        1, 0.9, double([1.0]), double([1.0]), double([2.0]), double([3.0]), double([0.1]), double([4.0])
    )
    policy = LinearPolicy(double([0.5]), 0.5 * torch.tensor([0.25]).double().log())
    assert one.objective(policy).item() == pytest.approx(-11.75)
    # dJ/dK = −3 · 2 K · 4, dJ/d log σ = −3 · 2 σ²
    assert one.gradient(policy).tolist() == pytest.approx([-12.0, -1.5])


def test_values_are_means_of_returns():
    policy = PROBLEM.policy()
    torch.manual_seed(0)
    batch = PROBLEM.samples(policy, 20_000)
    first = batch.signal.view(-1, 4)[:, 0]
    mean, error = mean_and_error(first)
    assert mean == pytest.approx(float(PROBLEM.objective(policy)), abs=error)
    for of in [PROBLEM.v(policy, batch.obs), PROBLEM.q(policy, batch.obs, batch.action)]:
        for t in range(4):
            mean, error = mean_and_error((batch.signal - of).view(-1, 4)[:, t])
            assert abs(mean) <= error
    again = PROBLEM.returns(policy, batch.obs, batch.action)
    mean, error = mean_and_error(again - PROBLEM.q(policy, batch.obs, batch.action))
    assert abs(mean) <= error


def test_the_gradient_is_that_of_finite_differences_of_the_objective():
    policy = PROBLEM.policy()
    gradient = PROBLEM.gradient(policy)
    values = []
    for step in [1e-5, -1e-5]:
        moved = PROBLEM.policy()
        with torch.no_grad():
            moved.gain[0, 1] += step
        values.append(float(PROBLEM.objective(moved)))
    assert float(gradient[1]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-7)


def test_the_variance_of_returns_is_that_of_samples():
    policy = PROBLEM.policy()
    torch.manual_seed(0)
    for t in range(4):
        obs = torch.tensor([[0.7, -1.1, float(t)]], dtype=torch.float64).expand(200_000, -1)
        action = torch.tensor([[0.4, 0.2]], dtype=torch.float64).expand(200_000, -1)
        exact = float(PROBLEM.return_variance(policy, obs[:1], action[:1]))
        assert float(PROBLEM.returns(policy, obs, action).var()) == pytest.approx(exact, rel=0.02, abs=1e-12)
    assert exact == 0.0  # nothing follows the last action


@pytest.mark.parametrize("horizon", [1, 4])
def test_the_exact_parts_sum_to_the_variance_of_the_estimator(horizon):
    problem = LinearQuadratic(horizon=horizon, gamma=0.9)
    policy = problem.policy()
    parts = exact_parts(problem, policy)
    torch.manual_seed(0)
    batch = problem.samples(policy, 100_000)
    for name, baseline in {"0": None, "V(s)": lambda obs: problem.v(policy, obs)}.items():
        total = parts.trajectory + parts.action[name] + parts.state
        assert likelihood_ratio(policy, batch, baseline).variance() == pytest.approx(total, rel=0.05)
    assert parts.action["Q(s, a)"] == 0.0
    assert parts.action["best b(s)"] <= parts.action["V(s)"]
    assert (parts.trajectory == 0.0) == (horizon == 1)


def test_nested_samples_find_the_exact_parts():
    problem = LinearQuadratic(horizon=3, gamma=1.0)  # so that a step's weight γ^t is 1
    policy = problem.policy()
    exact = exact_parts(problem, policy)
    torch.manual_seed(0)
    states, actions, returns = 20_000, 4, 3
    batch = problem.samples(policy, states)
    rows = torch.arange(states) * 3 + torch.randint(0, 3, (states,))
    obs = batch.obs[rows].repeat_interleave(actions, 0)
    action = policy(obs).sample()
    signal = problem.returns(policy, obs.repeat_interleave(returns, 0), action.repeat_interleave(returns, 0))
    one = torch.ones(len(obs), dtype=torch.float64)
    score = likelihood_ratio(policy, batch._replace(obs=obs, action=action, signal=one, discount=None)).flat
    v, q = problem.v(policy, obs), problem.q(policy, obs, action).detach()
    baselines = {name: x.view(states, actions) for name, x in {"V(s)": v, "0": 0.0 * v, "Q(s, a)": q}.items()}
    shapes = signal.view(states, actions, returns), score.view(states, actions, -1)
    found, errors, saved_errors = sampled_parts(*shapes, baselines, resamples=30)
    pairs = [(found.trajectory, exact.trajectory, errors.trajectory), (found.state, exact.state, errors.state)]
    pairs += [(found.action[name], exact.action[name], errors.action[name]) for name in baselines]
    pairs += [(found.saved("V(s)")[n], exact.saved("V(s)")[n], saved_errors[n]) for n in ("Q(s, a)", BEST)]
    for sampled, truth, error in pairs:
        assert sampled == pytest.approx(truth, abs=4.5 * error)
    assert errors.action["V(s)"] < 0.1 * exact.action["V(s)"]


def test_shares_that_are_saved_are_worked_out_by_hand():
    parts = Parts(trajectory=6.0, action={"V(s)": 3.0, "b": 1.0}, state=1.0)
    assert parts.total("b") == 8.0
    assert parts.saved("V(s)") == {"V(s)": 0.0, "b": 0.2, BEST: 0.3}
