import math
import shutil
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text, Tuple
from lightning.pytorch import Callback
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import LambdaLR, StepLR
from toys import LINEAR, TINY, GradientSteps, fit, make_trainer, noise_data, one_step, tiny_sac

from rl_lightning import SAC, ReplayDataModule, Transition, UsageError
from rl_lightning.fast.compilation import compiled_or_eager

OBS = Box(-np.inf, np.inf, (1,), np.float32)
ACTION = Box(-1.0, 1.0, (1,), np.float32)


def linear_sac(
    gamma=0.5, ent_coef=0.2, reward_scale=1.0, policy_gradient="reparameterized", log_std=(0.1, -1.0)
) -> SAC:
    """V = 2s + 1, V_target = 3s − 1, Q1 = s + 2a, Q2 = −s + a + 1, mean = 0.5s + 0.25, log_std = 0.1s − 1."""
    sac = SAC(
        OBS, ACTION, gamma, ent_coef=ent_coef, reward_scale=reward_scale, policy_gradient=policy_gradient,
        network=LINEAR, compile=False,
    )  # fmt: skip
    with torch.no_grad():
        for network, weight, bias in (
            (sac.value, [[2.0]], [1.0]),
            (sac.target_value, [[3.0]], [-1.0]),
            (sac.q.q1, [[1.0, 2.0]], [0.0]),
            (sac.q.q2, [[-1.0, 1.0]], [1.0]),
            (sac.policy, [[0.5], [log_std[0]]], [0.25, log_std[1]]),
        ):
            network.body[0].weight.copy_(torch.tensor(weight))
            network.body[0].bias.copy_(torch.tensor(bias))
    return sac


def two_transitions() -> Transition:
    return one_step(
        obs=torch.tensor([[1.0], [-2.0]]),
        action=torch.tensor([[0.5], [-0.25]]),
        reward=torch.tensor([1.0, -3.0]),
        next_obs=torch.tensor([[2.0], [4.0]]),
        terminated=torch.tensor([False, True]),
        gamma=0.5,
    )


def random_batch(size=32, features=1, actions=1) -> Transition:
    return one_step(
        torch.randn(size, features),
        torch.rand(size, actions) * 2 - 1,
        torch.randn(size),
        torch.randn(size, features),
        torch.rand(size) < 0.3,
    )


def approx(values):
    return pytest.approx(values, rel=1e-5, abs=1e-6)


# The three losses


def test_the_q_loss_and_its_gradient_are_those_worked_out_by_hand():
    metrics, (_, q_gradients, _) = linear_sac().gradients(two_transitions())
    # targets r + γ (3s' − 1), the second terminated: 1 + 0.5·5 = 3.5, and −3
    # Q1 = [1 + 1, −2 − 0.5] = [2, −2.5], errors [−1.5, 0.5];  Q2 = [−1 + 0.5 + 1, 2 − 0.25 + 1] = [0.5, 2.75],
    # errors [−3, 5.75]
    q_loss = (0.5 * 1.5**2 + 0.5 * 0.5**2) / 2 + (0.5 * 3**2 + 0.5 * 5.75**2) / 2
    assert metrics["train/q_loss"].item() == approx(q_loss)
    # ½ Σ error · (s, a, 1)
    w1, b1, w2, b2 = (gradient.flatten().tolist() for gradient in q_gradients)
    assert w1 == approx([(-1.5 * 1 + 0.5 * -2) / 2, (-1.5 * 0.5 + 0.5 * -0.25) / 2])
    assert b1 == approx([(-1.5 + 0.5) / 2])
    assert w2 == approx([(-3 * 1 + 5.75 * -2) / 2, (-3 * 0.5 + 5.75 * -0.25) / 2])
    assert b2 == approx([(-3 + 5.75) / 2])


def sampled(sac: SAC, obs: torch.Tensor) -> list[tuple[float, float, float, float, float]]:
    """Of each row: ε, σ, a, log π and s, computed in float64 from the noise that `gradients` will draw."""
    torch.manual_seed(1)
    _, _, u = sac.policy.sample(obs)
    torch.manual_seed(1)
    rows = []
    for s, pre_tanh in zip(obs.flatten().tolist(), u.flatten().tolist(), strict=True):
        weight, bias = sac.policy.body[0].weight.flatten().tolist(), sac.policy.body[0].bias.tolist()
        mean, log_std = weight[0] * s + bias[0], weight[1] * s + bias[1]
        epsilon, a = (pre_tanh - mean) / math.exp(log_std), math.tanh(pre_tanh)
        log_prob = -0.5 * epsilon**2 - log_std - 0.5 * math.log(2 * math.pi) - math.log(1 - a**2)
        rows.append((epsilon, math.exp(log_std), a, log_prob, s))
    return rows


def test_the_value_loss_and_its_gradient_are_those_worked_out_by_hand():
    sac, batch = linear_sac(), two_transitions()
    rows = sampled(sac, batch.obs)
    metrics, (value_gradients, _, _) = sac.gradients(batch)
    errors = []
    for _, _, a, log_prob, s in rows:
        target = min(s + 2 * a, -s + a + 1) - 0.2 * log_prob
        errors.append((2 * s + 1) - target)
    assert metrics["train/value_loss"].item() == approx((0.5 * errors[0] ** 2 + 0.5 * errors[1] ** 2) / 2)
    # Eq. 7; s is 1 and −2
    weight, bias = (gradient.item() for gradient in value_gradients)
    assert weight == approx((errors[0] * 1 + errors[1] * -2) / 2)
    assert bias == approx((errors[0] + errors[1]) / 2)
    assert metrics["train/entropy"].item() == approx(-(rows[0][3] + rows[1][3]) / 2)


def test_each_of_the_two_q_networks_is_the_minimum_somewhere():
    # else the tests by hand would not tell the minimum from one of the two
    sac = linear_sac()
    q1, q2 = sac.q(two_transitions().obs, torch.zeros(2, 1))
    assert (q1 < q2).tolist() == [False, True]


def test_the_policy_loss_and_its_gradient_are_those_worked_out_by_hand():
    sac, batch = linear_sac(), two_transitions()
    rows = sampled(sac, batch.obs)
    metrics, (_, _, policy_gradients) = sac.gradients(batch)
    loss, by_mean, by_log_std = 0.0, [], []
    for epsilon, sigma, a, log_prob, s in rows:
        q, dq_da = min((s + 2 * a, 2.0), (-s + a + 1, 1.0))
        loss += 0.5 * (0.2 * log_prob - q)
        # Eq. 10: u = mean + σ ε, a = tanh u; d log π/du at fixed ε is 2a, d log π/d log σ adds −1
        du = 0.2 * 2 * a - dq_da * (1 - a**2)
        by_mean.append(du)
        by_log_std.append(-0.2 + du * sigma * epsilon)
    assert metrics["train/policy_loss"].item() == approx(loss)
    weight, bias = (gradient.flatten().tolist() for gradient in policy_gradients)
    assert weight == approx([(by_mean[0] - 2 * by_mean[1]) / 2, (by_log_std[0] - 2 * by_log_std[1]) / 2])
    assert bias == approx([sum(by_mean) / 2, sum(by_log_std) / 2])


def test_the_likelihood_ratio_gradient_is_that_worked_out_by_hand():
    sac, batch = linear_sac(policy_gradient="likelihood_ratio"), two_transitions()
    rows = sampled(sac, batch.obs)
    _, (_, _, policy_gradients) = sac.gradients(batch)
    by_mean, by_log_std = [], []
    for epsilon, sigma, a, log_prob, s in rows:
        cost = 0.2 * log_prob - min(s + 2 * a, -s + a + 1) + (2 * s + 1)  # baseline V(s)
        by_mean.append(cost * epsilon / sigma)
        by_log_std.append(cost * (epsilon**2 - 1))
    weight, bias = (gradient.flatten().tolist() for gradient in policy_gradients)
    assert weight == approx([(by_mean[0] - 2 * by_mean[1]) / 2, (by_log_std[0] - 2 * by_log_std[1]) / 2])
    assert bias == approx([sum(by_mean) / 2, sum(by_log_std) / 2])


def test_termination_masks_the_next_value_and_nothing_else_does():
    sac, batch = linear_sac(), two_transitions()
    elsewhere = batch._replace(next_obs=torch.tensor([[2.0], [99.0]]))
    assert sac.gradients(batch)[0]["train/q_loss"] == sac.gradients(elsewhere)[0]["train/q_loss"]
    alive = batch._replace(terminated=torch.tensor([False, False]))
    assert sac.gradients(batch)[0]["train/q_loss"] != sac.gradients(alive)[0]["train/q_loss"]


def test_an_infinite_value_after_termination_does_not_poison_the_target():
    sac, batch = linear_sac(), two_transitions()
    batch.next_obs[1] = torch.inf
    assert sac.gradients(batch)[0]["train/q_loss"].isfinite()


def test_the_action_in_the_value_target_is_fresh_and_not_the_buffers():
    sac, batch = linear_sac(), two_transitions()
    losses = []
    for seed, action in ((1, 0.5), (1, -0.9), (2, 0.5)):
        torch.manual_seed(seed)
        metrics, _ = sac.gradients(batch._replace(action=torch.full((2, 1), action)))
        losses.append((metrics["train/value_loss"].item(), metrics["train/policy_loss"].item()))
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[2][0]
    assert losses[0][1] != losses[2][1]


# What may move what


def named_gradients(sac, batch):
    torch.manual_seed(2)
    _, gradients = sac.gradients(batch)
    return dict(zip(("value", "q", "policy"), gradients, strict=True))


@pytest.mark.parametrize("policy_gradient", ["reparameterized", "likelihood_ratio"])
def test_each_losses_gradients_are_of_its_own_parameters_and_depend_on_its_own_inputs(policy_gradient):
    sac, batch = linear_sac(policy_gradient=policy_gradient), two_transitions()
    before = named_gradients(sac, batch)
    for name, gradients in before.items():
        own = list(getattr(sac, name).parameters())
        assert [g.shape for g in gradients] == [p.shape for p in own]
        assert all(g.abs().sum() > 0 for g in gradients)
    # the reward reaches J_Q alone: a loss summed with another would show it
    after = named_gradients(sac, batch._replace(reward=batch.reward + 10))
    assert all(torch.equal(a, b) for a, b in zip(before["value"], after["value"], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before["policy"], after["policy"], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before["q"], after["q"], strict=True))
    # V reaches J_V, and as a baseline the likelihood ratio, but not J_Q: that bootstraps from the target
    with torch.no_grad():
        sac.value.body[0].bias += 10
    after = named_gradients(sac, batch)
    assert all(torch.equal(a, b) for a, b in zip(before["q"], after["q"], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before["value"], after["value"], strict=True))
    assert torch.equal(before["policy"][0], after["policy"][0]) is (policy_gradient == "reparameterized")
    # the policy does not reach J_Q
    with torch.no_grad():
        sac.policy.body[0].bias += 1
    assert all(torch.equal(a, b) for a, b in zip(before["q"], named_gradients(sac, batch)["q"], strict=True))


def test_gradients_is_pure():
    sac, batch = tiny_sac(OBS, ACTION), random_batch()
    weights = {name: tensor.clone() for name, tensor in sac.state_dict().items()}
    copy = Transition(*(field.clone() for field in batch))
    metrics, gradients = sac.gradients(batch)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in sac.state_dict().items())
    assert all(torch.equal(one, other) for one, other in zip(batch, copy, strict=True))
    assert all(parameter.grad is None for parameter in sac.parameters())
    assert not any(tensor.requires_grad for tensor in [*metrics.values(), *(g for own in gradients for g in own)])
    assert metrics.pop("train/td_error").shape == (32,)
    assert all(metric.shape == () for metric in metrics.values())


def sgd(lr):
    return lambda params: SGD(params, lr=lr)


@pytest.mark.parametrize("moved", ["value", "q", "policy"])
def test_each_optimizer_moves_only_its_own_parameters_and_all_of_them(moved):
    data = noise_data(total_env_steps=20)
    lr = {name: 0.01 if name == moved else 0.0 for name in ("value", "q", "policy")}
    model = tiny_sac(
        data.observation_space,
        data.action_space,
        value_optimizer=sgd(lr["value"]),
        q_optimizer=sgd(lr["q"]),
        policy_optimizer=sgd(lr["policy"]),
        target_update_interval=1000,
    )
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    fit(model, data)
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name in before if name.split(".")[0] == moved}


def test_every_parameter_has_one_optimizer_but_the_targets_which_have_none():
    data = noise_data(total_env_steps=20)
    model = tiny_sac(data.observation_space, data.action_space)
    trainer = fit(model, data)
    owned = [{id(p) for group in o.param_groups for p in group["params"]} for o in trainer.optimizers]
    assert owned == [{id(p) for p in network.parameters()} for network in (model.value, model.q, model.policy)]
    assert not any(parameter.requires_grad for parameter in model.target_value.parameters())
    assert sum(map(len, owned)) + len(list(model.target_value.parameters())) == len(list(model.parameters()))


def test_a_gradient_step_is_each_optimizers_own_learning_rate_times_its_gradient():
    data = noise_data(learning_starts=12, total_env_steps=13)
    lrs = {"value": 0.1, "q": 0.01, "policy": 0.001}
    model = tiny_sac(
        data.observation_space,
        data.action_space,
        value_optimizer=sgd(lrs["value"]),
        q_optimizer=sgd(lrs["q"]),
        policy_optimizer=sgd(lrs["policy"]),
    )
    before = {name: [p.detach().clone() for p in getattr(model, name).parameters()] for name in lrs}
    taken, gradients = [], model.gradients

    def spy(batch):
        metrics, grads = gradients(batch)
        taken.append(dict(zip(lrs, grads, strict=True)))
        return metrics, grads

    model.gradients = spy
    fit(model, data)
    assert len(taken) == 1
    for name, lr in lrs.items():
        for old, new, gradient in zip(before[name], getattr(model, name).parameters(), taken[0][name], strict=True):
            torch.testing.assert_close(new.detach(), old - lr * gradient, rtol=1e-6, atol=1e-7)


def test_each_scheduler_steps_once_for_each_gradient_step():
    data = noise_data(num_envs=3, replay_ratio=2.0, learning_starts=12, total_env_steps=33)
    model = tiny_sac(
        data.observation_space,
        data.action_space,
        value_optimizer=sgd(1.0),
        q_optimizer=partial(Adam, lr=1e-3),
        policy_optimizer=partial(Adam, lr=1e-4),
        value_scheduler=lambda optimizer: LambdaLR(optimizer, lambda steps: 1 / (1 + steps)),
        policy_scheduler=lambda optimizer: StepLR(optimizer, step_size=7, gamma=0.5),
    )
    counter = GradientSteps()
    trainer = fit(model, data, make_trainer([counter]))
    assert counter.count == 2 * (33 - 12)
    lrs = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
    assert lrs == pytest.approx([1 / (1 + 42), 1e-3, 1e-4 * 0.5 ** (42 // 7)])


# Relations between settings


def test_a_temperature_of_one_fifth_is_a_reward_scale_of_five():
    batch = random_batch()
    weak, strong = tiny_sac(OBS, ACTION, ent_coef=0.2), tiny_sac(OBS, ACTION, ent_coef=1.0, reward_scale=5.0)
    strong.load_state_dict(weak.state_dict())
    with torch.no_grad():  # values in the other unit
        for network in (strong.value, strong.target_value, strong.q.q1, strong.q.q2):
            network.body[-1].weight *= 5
            network.body[-1].bias *= 5
    results = []
    for sac in (weak, strong):
        torch.manual_seed(0)
        results.append(sac.gradients(batch))
    (weak_metrics, weak_gradients), (strong_metrics, strong_gradients) = results
    for name, factor in {"value_loss": 25, "q_loss": 25, "policy_loss": 5, "entropy": 1, "v_mean": 5}.items():
        torch.testing.assert_close(strong_metrics[f"train/{name}"], factor * weak_metrics[f"train/{name}"])
    for one, other in zip(weak_gradients[2], strong_gradients[2], strict=True):
        torch.testing.assert_close(other, 5 * one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy_gradient", ["reparameterized", "likelihood_ratio"])
def test_training_with_a_quarter_of_the_temperature_is_training_with_four_times_the_reward(policy_gradient):
    policies, values = [], []
    for ent_coef, reward_scale, policy_lr in ((0.25, 1.0, 4e-3), (1.0, 4.0, 1e-3)):
        torch.manual_seed(0)
        data = noise_data(total_env_steps=60)
        model = SAC(
            data.observation_space,
            data.action_space,
            gamma=0.9,
            tau=0.1,
            ent_coef=ent_coef,
            reward_scale=reward_scale,
            policy_gradient=policy_gradient,
            network=LINEAR,
            value_optimizer=sgd(1e-2),
            q_optimizer=sgd(1e-2),
            policy_optimizer=sgd(policy_lr),
            compile=False,
        )
        with torch.no_grad():
            for network in (model.value, model.target_value, model.q):
                for parameter in network.parameters():
                    parameter *= reward_scale
        start = [parameter.clone() for parameter in model.policy.parameters()]
        fit(model, data)
        assert not any(torch.equal(a, b) for a, b in zip(start, model.policy.parameters(), strict=True))
        policies.append(torch.cat([p.detach().flatten() for p in model.policy.parameters()]))
        values.append(torch.cat([p.detach().flatten() for n in (model.value, model.q) for p in n.parameters()]))
    # factors of 4 are exact in floating point
    assert torch.equal(policies[0], policies[1])
    assert torch.equal(4 * values[0], values[1])


def test_both_policy_gradients_have_the_same_expectation():
    torch.manual_seed(0)
    network = partial(TINY.func, hidden_sizes=(4,), activation="tanh")
    batch = random_batch(1)
    batch = Transition(*(field.expand(4096, *field.shape[1:]) for field in batch))
    sac = SAC(OBS, ACTION, ent_coef=0.5, network=network, compile=False)
    with torch.no_grad():  # a Q that matters, of more than one slope
        for q in (sac.q.q1, sac.q.q2):
            q.body[-1].weight *= 3
    estimates = {}
    for policy_gradient in ("reparameterized", "likelihood_ratio"):
        sac.policy_gradient = policy_gradient
        draws = [torch.cat([g.flatten() for g in sac.gradients(batch)[1][2]]).double() for _ in range(200)]
        stacked = torch.stack(draws)
        estimates[policy_gradient] = stacked.mean(0), stacked.std(0) / len(draws) ** 0.5
    (one, one_error), (other, other_error) = estimates.values()
    error = (one_error**2 + other_error**2).sqrt()
    assert ((one - other).abs() < 4.5 * error).all(), (one - other) / error
    # the comparison has power, and reparameterizing the lower variance that it is for
    assert (one.abs() > 30 * error).sum() >= len(one) // 2
    assert (one_error < other_error).sum() > len(one) // 2


@pytest.mark.skipif(not shutil.which("g++") and not shutil.which("clang++"), reason="there is no C++ compiler")
def test_compiled_gradients_equal_eager_ones():
    sac, batch = tiny_sac(OBS, ACTION), random_batch()
    results = []
    # else compiled code draws other numbers; and a warning would mean that nothing was compiled
    with torch._inductor.config.patch(fallback_random=True), warnings.catch_warnings():
        warnings.filterwarnings("error", message="gradients run eagerly")
        for function in (sac.gradients, compiled_or_eager(sac.gradients)):
            torch.manual_seed(0)
            results.append(function(batch))
    (eager_metrics, eager), (compiled_metrics, compiled) = results
    torch.testing.assert_close(compiled_metrics, eager_metrics)
    for own, own_eager in zip(compiled, eager, strict=True):
        torch.testing.assert_close(tuple(own), tuple(own_eager))


# Whole runs


@pytest.mark.parametrize(
    ("ending", "length", "states", "expected"),
    [
        ("truncate", 3, 1, [1 / (1 - 0.6)]),
        ("terminate", 1, 1, [1.0]),
        ("both", 1, 1, [1.0]),
        ("terminate", 3, 3, [1 + 0.6 + 0.36, 1 + 0.6, 1.0]),
    ],
)
def test_the_value_bootstraps_at_a_time_limit_and_not_at_termination(ending, length, states, expected):
    data = ReplayDataModule(
        "toys:RewardOne-v0",
        {"ending": ending, "length": length, "states": states},
        learning_starts=64,
        total_env_steps=384,
        batch_size=32,
        buffer_size=400,
    )
    model = SAC(
        data.observation_space,
        data.action_space,
        gamma=0.6,
        tau=0.3,
        ent_coef=0.0,
        network=LINEAR,
        value_optimizer=sgd(0.5),
        q_optimizer=sgd(0.4),
        compile=False,
    )
    fit(model, data)
    with torch.no_grad():
        assert model.value(torch.eye(states)).tolist() == pytest.approx(expected, abs=0.03)
        assert model.target_value(torch.eye(states)).tolist() == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("policy_gradient", "steps", "reached"), [("reparameterized", 900, -0.03), ("likelihood_ratio", 900, -0.03)]
)
def test_it_learns_to_answer_with_the_number_it_sees(policy_gradient, steps, reached):
    data = ReplayDataModule(
        "toys:Match-v0", learning_starts=200, total_env_steps=steps, batch_size=64, buffer_size=2000, eval_episodes=50
    )
    lr = partial(Adam, lr=1e-2)
    model = SAC(
        data.observation_space,
        data.action_space,
        ent_coef=0.01,
        policy_gradient=policy_gradient,
        network=partial(TINY.func, hidden_sizes=(32,)),
        value_optimizer=lr,
        q_optimizer=lr,
        policy_optimizer=lr,
        compile=False,
    )
    trainer = make_trainer(validate=True)
    before = trainer.validate(model, data, verbose=False)[0]["val/return_mean"]
    fit(model, data)
    after = trainer.validate(model, data, verbose=False)[0]["val/return_mean"]
    assert before < -0.1
    assert after > reached


def test_bf16_autocast_keeps_parameters_targets_and_losses_in_float32():
    data = noise_data(total_env_steps=20)
    model = tiny_sac(data.observation_space, data.action_space)
    seen = []

    class Spy(Callback):
        def on_gradient_step_end(self, trainer, pl_module):
            seen.extend(pl_module.losses.values())
            seen.extend(parameter.grad for o in trainer.optimizers for g in o.param_groups for parameter in g["params"])

    fit(model, data, make_trainer([Spy()], precision="bf16-mixed"))
    assert {tensor.dtype for tensor in [*seen, *model.parameters()]} == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in seen)


# Acting


def test_the_deterministic_action_is_the_tanh_of_the_mean():
    sac, obs = linear_sac(), torch.tensor([[1.0], [-2.0], [30.0]])
    expected = [[math.tanh(0.75)], [math.tanh(-0.75)], [math.tanh(15.25)]]
    torch.testing.assert_close(sac.act(obs, deterministic=True), torch.tensor(expected))


def test_stochastic_actions_have_the_policys_mean_and_standard_deviation():
    sac = linear_sac()
    u = sac.act(torch.ones(40_000, 1)).double().atanh()
    sigma = math.exp(0.1 - 1.0)
    assert u.mean().item() == pytest.approx(0.75, abs=5 * sigma / 200)
    assert u.std().item() == pytest.approx(sigma, rel=5 / (2 * 40_000) ** 0.5)


def test_the_target_starts_as_a_copy_of_its_own_storage():
    sac = tiny_sac(OBS, ACTION)
    for online, target in zip(sac.value.parameters(), sac.target_value.parameters(), strict=True):
        assert torch.equal(online, target)
        assert online.data_ptr() != target.data_ptr()
    assert not any(torch.equal(a, b) for a, b in zip(sac.q.q1.parameters(), sac.q.q2.parameters(), strict=True))


# Refusals


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gamma", -0.1), ("gamma", 1.1), ("gamma", math.nan),
        ("tau", 0.0), ("tau", 1.1), ("tau", math.nan),
        ("target_update_interval", 0),
        ("ent_coef", -0.1), ("ent_coef", math.nan), ("ent_coef", math.inf),
        ("reward_scale", 0.0), ("reward_scale", -1.0), ("reward_scale", math.nan), ("reward_scale", math.inf),
        ("policy_gradient", "likelihood-ratio"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name(key, value):
    with pytest.raises(UsageError, match=f"^{key}=.* is not allowed: ") as caught:
        SAC(OBS, ACTION, compile=False, network=LINEAR, **{key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "space",
    [
        MultiDiscrete([2, 3]),
        Dict({"a": OBS, "b": Text(5)}),
        Tuple([OBS]),
        Text(5),
        Box(0, 255, (8, 8, 3), np.uint8),
    ],
    ids=lambda space: type(space).__name__ + str(space.shape),
)
def test_an_observation_space_without_an_encoder_is_refused(space):
    with pytest.raises(UsageError, match=r"observation space .* is not supported by (SAC|NatureCNN): .*") as caught:
        SAC(space, ACTION, compile=False)
    assert "\n" not in str(caught.value)


def nan_bound() -> Box:
    space = Box(-1.0, 1.0, (2,), np.float32)
    space.low[1] = np.nan  # Box itself refuses it when made
    return space


@pytest.mark.parametrize(
    "space",
    [
        Discrete(3),
        Discrete(3, start=1),
        Dict({"a": ACTION}),
        Tuple([ACTION]),
        Box(-np.inf, np.inf, (2,), np.float32),
        Box(np.array([-1, -np.inf], np.float32), np.array([1, 1], np.float32)),
        Box(np.array([-1, -1], np.float32), np.array([1, np.inf], np.float32)),
        nan_bound(),
        Box(np.array([-1, 1], np.float32), np.array([1, 1], np.float32)),
        Box(-1.0, 1.0, (2, 2), np.float32),
        Box(-1.0, 1.0, (), np.float32),
    ],
    ids=str,
)
def test_an_action_space_without_a_policy_is_refused(space):
    with pytest.raises(UsageError, match=r"action space .* is not supported by SAC: .* needed") as caught:
        SAC(OBS, space, compile=False)
    assert "\n" not in str(caught.value)


def test_a_network_of_another_kind_is_used_for_every_part():
    sac = SAC(OBS, ACTION, network=nn.Linear, compile=False)
    assert {type(sac.value.body), type(sac.q.q1.body), type(sac.policy.body), type(sac.target_value.body)} == {
        nn.Linear
    }
    assert sac.policy.body.out_features == 2
