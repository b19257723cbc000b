import math
from collections import Counter

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from linear import approx, flat, linear, rollout, v, value_slope
from torch.nn.utils import parameters_to_vector
from toys import TINY, GradientSteps, fit, make_trainer

from rl_lightning import TRPO, RolloutDataModule, UsageError
from rl_lightning.algorithms import trpo
from rl_lightning.algorithms.trpo import Samples, conjugate_gradient

VECTOR = Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS = {
    "discrete": Discrete(3),
    "multi-discrete": MultiDiscrete([2, 3]),
    "multi-binary": MultiBinary(2),
    "box": Box(-1.0, 1.0, (2,), np.float32),
}


def tiny_trpo(action="discrete", **settings):
    """With a policy that is far from uniform."""
    model = TRPO(VECTOR, ACTIONS[action], network=TINY, compile=False, **settings)
    with torch.no_grad():
        for parameter in model.networks.policy.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    model.trainer = make_trainer()  # it says over how many processes to average
    return model


def random_samples(model, size=64):
    obs = torch.randn(size, 3)
    with torch.no_grad():
        action = model.act(obs)
    return Samples(obs, action, torch.randn(size), torch.randn(size), {})


def weights(module):
    return parameters_to_vector(module.parameters()).detach().clone()


@pytest.fixture
def solved(monkeypatch):
    """What `step_policy` hands to conjugate gradients, and what comes back."""
    calls = {}

    def spy(product, b, max_steps):
        calls.update(b=b, max_steps=max_steps, x=conjugate_gradient(product, b, max_steps))
        calls["products"] = torch.stack([product(unit) for unit in torch.eye(len(b))])
        return calls["x"]

    monkeypatch.setattr(trpo, "conjugate_gradient", spy)
    return calls


def log_prob_gradients(model, obs, action):
    log_prob = model.networks.distribution(obs).log_prob(action)
    parameters = list(model.networks.policy.parameters())
    return torch.stack(
        [torch.cat([g.flatten() for g in torch.autograd.grad(one, parameters, retain_graph=True)]) for one in log_prob]
    )


# Conjugate gradients


@pytest.mark.parametrize("size", [1, 2, 7, 20])
def test_conjugate_gradients_solve_as_a_dense_solver_does(size):
    root = torch.randn(size, size, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(size, dtype=torch.float64)
    b = torch.randn(size, dtype=torch.float64)
    x = conjugate_gradient(lambda vector: matrix @ vector, b, max_steps=3 * size, tolerance=1e-20)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b), rtol=1e-7, atol=1e-9)


def test_k_iterations_are_exact_for_k_distinct_eigenvalues():
    matrix = torch.diag(torch.tensor([1.0, 1.0, 4.0, 4.0, 9.0, 9.0], dtype=torch.float64))
    b = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype=torch.float64)
    products = []
    x = conjugate_gradient(lambda vector: products.append(vector) or matrix @ vector, b, max_steps=100)
    torch.testing.assert_close(x, b / matrix.diag())
    assert len(products) == 3


def test_the_first_iteration_is_that_of_steepest_descent():
    matrix, b = torch.tensor([[2.0, 1.0], [1.0, 3.0]]), torch.tensor([1.0, 2.0])
    # b·b / bᵀAb = 5 / (2 + 2·2 + 3·4) = 5 / 18
    assert conjugate_gradient(lambda x: matrix @ x, b, max_steps=1).tolist() == approx([5 / 18, 10 / 18])


@pytest.mark.parametrize("unit", [1e-3, 1e-6, 1e-9])
def test_the_solution_is_in_the_unit_of_b_however_small_that_is(unit):
    root = torch.randn(20, 20)
    matrix, b = root @ root.T / 20 + 0.1 * torch.eye(20), torch.randn(20)
    x = conjugate_gradient(lambda vector: matrix @ vector, unit * b, max_steps=40)
    torch.testing.assert_close(matrix @ x / unit, b, rtol=0.0, atol=0.011 * b.norm().item())


def test_the_solution_for_zero_is_zero():
    def product(vector):
        raise AssertionError("there is nothing to solve")

    assert conjugate_gradient(product, torch.zeros(3), max_steps=5).tolist() == [0.0, 0.0, 0.0]


# The step of the policy


@pytest.mark.parametrize("action", ["discrete", "multi-discrete", "multi-binary"])
def test_the_product_is_that_of_the_explicit_fisher_matrix(action, solved):
    model = tiny_trpo(action, cg_damping=0.1)
    samples = random_samples(model, 8)
    every = {
        "discrete": torch.arange(3),
        "multi-discrete": torch.cartesian_prod(torch.arange(2), torch.arange(3)),
        "multi-binary": torch.cartesian_prod(torch.arange(2), torch.arange(2)),
    }[action]
    # E_s[Σ_a π(a|s) ∇log π ∇log πᵀ]
    fisher = 0.0
    for obs in samples.obs:
        repeated = obs.expand(len(every), -1)
        gradients = log_prob_gradients(model, repeated, every)
        with torch.no_grad():
            probability = model.networks.distribution(repeated).log_prob(every).exp()
        assert probability.sum().item() == approx(1.0)
        fisher = fisher + (gradients.T * probability) @ gradients / len(samples.obs)
    model.step_policy(samples)
    torch.testing.assert_close(solved["products"], fisher + 0.1 * torch.eye(len(fisher)), rtol=1e-4, atol=1e-5)
    assert fisher.abs().max() > 0.1


@pytest.mark.parametrize("state_dependent_std", [False, True])
def test_the_product_is_that_of_a_gaussians_explicit_fisher_matrix(state_dependent_std, solved):
    model = tiny_trpo("box", cg_damping=0.1, state_dependent_std=state_dependent_std, log_std_init=-0.5)
    samples = random_samples(model, 8)
    parameters = list(model.networks.policy.parameters())
    # of N(μ, σ²): E_s[Σ_i ∇μ_i ∇μ_iᵀ / σ_i² + 2 ∇log σ_i ∇log σ_iᵀ]
    fisher = 0.0
    pi = model.networks.distribution(samples.obs)
    for row in range(8):
        for i in range(2):
            for output, scale in ((pi.mean, (-2 * pi.log_std[row, i]).exp().item()), (pi.log_std, 2.0)):
                parts = torch.autograd.grad(output[row, i], parameters, retain_graph=True, materialize_grads=True)
                slope = torch.cat([part.flatten() for part in parts])
                fisher = fisher + scale * torch.outer(slope, slope) / 8
    model.step_policy(samples)
    torch.testing.assert_close(solved["products"], fisher + 0.1 * torch.eye(len(fisher)), rtol=1e-4, atol=1e-4)


def test_the_gradient_is_the_policy_gradient(solved):
    model = tiny_trpo()
    samples = random_samples(model)
    expected = (samples.advantage @ log_prob_gradients(model, samples.obs, samples.action)) / 64
    model.step_policy(samples)
    torch.testing.assert_close(solved["b"], expected, rtol=1e-4, atol=1e-6)
    assert solved["max_steps"] == model.cg_max_steps


@pytest.mark.parametrize("action", ["discrete", "multi-discrete", "multi-binary", "box"])
@pytest.mark.parametrize("target_kl", [0.001, 0.05])
def test_the_step_improves_the_surrogate_within_the_trust_region(action, target_kl):
    model = tiny_trpo(action, target_kl=target_kl)
    samples = random_samples(model)
    old = model.networks.distribution(samples.obs).detach()
    before = weights(model.networks.policy)
    metrics = model.step_policy(samples)
    with torch.no_grad():
        new = model.networks.distribution(samples.obs)
        ratio = (new.log_prob(samples.action) - old.log_prob(samples.action)).exp()
        surrogate, kl = (ratio * samples.advantage).mean().item(), old.kl(new).mean().item()
    assert surrogate > samples.advantage.mean().item() + 1e-3
    assert 0.3 * target_kl < kl < target_kl  # what the trust region allows is used
    assert metrics["train/kl"].item() == approx(kl)
    assert metrics["train/policy_loss"].item() == approx(-surrogate)
    assert metrics["train/entropy"].item() == approx(new.entropy().mean().item())
    assert not torch.equal(weights(model.networks.policy), before)


def test_the_full_step_has_the_length_of_the_trust_region_and_shorter_ones_are_powers_of_the_factor(solved):
    model = tiny_trpo(target_kl=0.02, cg_damping=1e-3, line_search_shrinking_factor=0.7)
    samples = random_samples(model)
    before = weights(model.networks.policy)
    metrics = model.step_policy(samples)
    x, fisher = solved["x"].double(), solved["products"].double()
    full = (2 * 0.02 / (x @ fisher @ x)).sqrt() * x
    assert (0.5 * full @ fisher @ full).item() == pytest.approx(0.02, rel=1e-5)
    tries = int(metrics["train/line_search_tries"])
    assert tries > 1
    step = (weights(model.networks.policy) - before).double()
    torch.testing.assert_close(step, 0.7 ** (tries - 1) * full, rtol=1e-3, atol=1e-5)


def test_the_line_search_takes_the_first_step_that_is_within_the_region():
    # far steps leave the quadratic approximation, so some are too long
    model = tiny_trpo("box", target_kl=1.0, cg_damping=1e-3, line_search_shrinking_factor=0.9, line_search_max_iter=50)
    samples = random_samples(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    old, before = model.networks.distribution(samples.obs).detach(), weights(model.networks.policy)
    metrics = model.step_policy(samples)
    tries, taken = int(metrics["train/line_search_tries"]), weights(model.networks.policy) - before
    assert 2 < tries < 50
    start = samples.advantage.mean()
    for k in range(tries):
        model.load_state_dict(state)
        torch.nn.utils.vector_to_parameters(before + taken / 0.9 ** (tries - 1 - k), model.networks.policy.parameters())
        with torch.no_grad():
            new = model.networks.distribution(samples.obs)
            ratio = (new.log_prob(samples.action) - old.log_prob(samples.action)).exp()
            accepted = bool(old.kl(new).mean() < 1.0 and (ratio * samples.advantage).mean() > start)
        assert accepted is (k == tries - 1)


def test_with_no_advantage_the_policy_stays_exactly_where_it_was():
    model = tiny_trpo()
    samples = random_samples(model)._replace(advantage=torch.zeros(64))
    before = weights(model.networks.policy)
    metrics = model.step_policy(samples)
    assert torch.equal(weights(model.networks.policy), before)
    assert metrics["train/kl"] == 0.0
    assert metrics["train/policy_loss"] == 0.0
    assert metrics["train/line_search_tries"] == model.line_search_max_iter


def test_where_every_step_fails_the_policy_stays_exactly_where_it_was(monkeypatch):
    # the direction of descent: no step improves
    monkeypatch.setattr(trpo, "conjugate_gradient", lambda product, b, max_steps: -b)
    model = tiny_trpo()
    samples = random_samples(model)
    before = weights(model.networks.policy)
    metrics = model.step_policy(samples)
    assert torch.equal(weights(model.networks.policy), before)
    assert metrics["train/kl"] == 0.0
    assert metrics["train/policy_loss"].item() == approx(-samples.advantage.mean().item())


def test_advantages_that_are_not_numbers_leave_the_policy_as_it_was():
    model = tiny_trpo()
    samples = random_samples(model)._replace(advantage=torch.full((64,), math.nan))
    before = weights(model.networks.policy)
    model.step_policy(samples)
    assert torch.equal(weights(model.networks.policy), before)


# Advantages and the value


@pytest.mark.parametrize("normalize_advantage", [True, False])
def test_a_rollout_becomes_samples_with_the_advantages_worked_out_by_hand(normalize_advantage):
    # γ λ = 0.4; V = [3, −3, 2]; V(7) = 15 of the last observation before a cut, and none after termination
    model = linear(TRPO, gamma=0.5, gae_lambda=0.8, normalize_advantage=normalize_advantage)
    samples = model.with_advantages(
        rollout(
            [[1.0], [-2.0], [0.5]], [[1], [0], [1]], [[1.0], [3.0], [-2.0]], [[-2.0], [7.0], [4.0]],
            [[0], [0], [1]], [[0], [1], [0]],
        )
    )  # fmt: skip
    d0, d1, d2 = 1 + 0.5 * -3 - 3, 3 + 0.5 * 15 + 3, -2 - 2
    advantages = np.array([d0 + 0.4 * d1, d1, d2])
    assert samples.returns.tolist() == approx([a + v(s) for a, s in zip(advantages, (1.0, -2.0, 0.5), strict=True)])
    if normalize_advantage:
        advantages = (advantages - advantages.mean()) / advantages.std(ddof=1)
    assert samples.advantage.tolist() == approx(advantages)


def test_the_values_loss_and_gradient_are_those_worked_out_by_hand():
    states, returns = [1.0, -2.0, 0.5], [1.0, 2.0, -1.0]
    none = torch.full((3,), math.nan)  # nothing but the returns matters
    found = linear(TRPO).gradients(Samples(torch.tensor(states).unsqueeze(-1), none, none, torch.tensor(returns), {}))
    errors = [v(s) - g for s, g in zip(states, returns, strict=True)]
    assert found.metrics["train/value_loss"].item() == approx(0.5 * np.square(errors).mean())
    assert found.of.keys() == {"value"}
    assert flat(found.of["value"]) == approx(sum(e * value_slope(s) for e, s in zip(errors, states, strict=True)) / 3)


# Whole runs


def test_a_rollout_is_one_step_of_the_policy_and_passes_over_all_of_it_for_the_value():
    # 3 environments x 7 steps = 21 samples; 5 passes of 3 minibatches of 7; 2 rollouts
    data = RolloutDataModule("toys:Counter-v0", num_envs=3, rollout_steps=7, total_env_steps=42)
    model = TRPO(
        data.observation_space, data.action_space, n_critic_updates=5, batch_size=7, network=TINY, compile=False
    )
    order, seen = [], []
    step_policy, gradients = model.step_policy, model.gradients
    model.step_policy = lambda samples: order.append("policy") or step_policy(samples)
    model.gradients = lambda batch: order.append("value") or seen.append(batch) or gradients(batch)
    counter = GradientSteps()
    fit(model, data, make_trainer([counter]))
    assert order == ["policy", *["value"] * 15] * 2
    assert counter.count == 30
    assert {len(batch.returns) for batch in seen} == {7}
    for start in range(0, 30, 3):
        rows = Counter(tuple(row) for batch in seen[start : start + 3] for row in batch.obs.tolist())
        assert len(rows) == 21
        assert max(rows.values()) == 1
    assert {"train/kl", "train/policy_loss", "train/line_search_tries", "train/value_loss"} <= model.metrics.keys()


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rollout_steps": None}, "^rollout_steps=None is not allowed: minibatches of TRPO need rollouts of one size"),
        ({"rollout_steps": 9, "num_envs": 2}, "^batch_size=4 is not allowed: .* = 18; give a divisor of it$"),
    ],
)
def test_rollouts_that_minibatches_do_not_divide_are_refused(settings, message):
    data = RolloutDataModule("toys:Spaces-v0", total_env_steps=180, **settings)
    model = TRPO(data.observation_space, data.action_space, network=TINY, batch_size=4, compile=False)
    with pytest.raises(UsageError, match=message):
        fit(model, data)
