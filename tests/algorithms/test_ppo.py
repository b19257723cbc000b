import math
from collections import Counter

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from linear import approx, both, linear, pi, rollout, score, sgd, v, value_slope
from torch import nn
from toys import TINY, GradientSteps, fit, make_trainer

from rl_lightning import PPO, RolloutDataModule, UsageError
from rl_lightning.algorithms.ppo import Samples, clipped_surrogate

STATES, ACTIONS = [1.0, -2.0, 0.5, 0.0, -1.0], [1, 0, 1, 0, 1]


def samples(ratios=(1.0,) * 5, advantages=(1.0, -2.0, 0.5, 3.0, -1.0), old_value=None, returns=(1.0,) * 5):
    """In s = 1, −2, 0.5, 0, −1 the actions 1, 0, 1, 0, 1; `ratios` of probabilities now to those when they acted."""
    log_probs = [math.log(pi(s)[a] / r) for s, a, r in zip(STATES, ACTIONS, ratios, strict=True)]
    old_value = [v(s) for s in STATES] if old_value is None else old_value
    return Samples(
        torch.tensor(STATES).unsqueeze(-1),
        torch.tensor(ACTIONS),
        *(torch.tensor(x) for x in (log_probs, old_value, advantages, returns)),
        {},
    )


def plain(**settings):
    return linear(PPO, **{"normalize_advantage": False, "max_grad_norm": None, **settings})


def gradients(batch, clip_range=0.2, **settings):
    """What `plain` finds."""
    return plain(**settings).gradients(batch, torch.tensor(clip_range))


def by_policy(weights):
    """−mean of weight · ∇ log π(a|s)."""
    return -sum(w * score(s, a) for w, s, a in zip(weights, STATES, ACTIONS, strict=True)) / 5


def by_value(errors):
    """Mean of error · ∇V(s)."""
    return sum(e * value_slope(s) for e, s in zip(errors, STATES, strict=True)) / 5


# The clipped surrogate


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "slope"),
    [
        (1.5, 2.0, 1.2 * 2.0, 0.0),  # already gained enough
        (1.5, -2.0, 1.5 * -2.0, -2.0),  # the penalty is not clipped
        (0.5, 2.0, 0.5 * 2.0, 2.0),
        (0.5, -2.0, 0.8 * -2.0, 0.0),
        (1.1, 2.0, 1.1 * 2.0, 2.0),
        (1.1, -2.0, 1.1 * -2.0, -2.0),
        (0.9, 2.0, 0.9 * 2.0, 2.0),
        (0.9, -2.0, 0.9 * -2.0, -2.0),
    ],
)
def test_the_surrogate_is_clipped_where_the_ratio_has_left_its_range_for_the_better(ratio, advantage, expected, slope):
    r = torch.tensor([ratio], requires_grad=True)
    surrogate = clipped_surrogate(r, torch.tensor([advantage]), torch.tensor(0.2))
    surrogate.backward()
    assert surrogate.item() == approx(expected)
    assert r.grad.item() == approx(slope)


def test_the_policys_loss_and_gradient_are_those_worked_out_by_hand():
    ratios, advantages = [1.5, 1.5, 0.5, 0.5, 1.1], [1.0, -2.0, 0.5, -3.0, 4.0]
    found = gradients(samples(ratios, advantages))
    terms = [1.2 * 1.0, 1.5 * -2.0, 0.5 * 0.5, 0.8 * -3.0, 1.1 * 4.0]
    assert found.metrics["train/policy_loss"].item() == approx(-sum(terms) / 5)
    assert found.metrics["train/clip_fraction"].item() == approx(4 / 5)
    assert found.approx_kl.item() == approx(sum(r - 1 - math.log(r) for r in ratios) / 5)
    assert found.metrics["train/approx_kl"] is found.approx_kl
    # ∇r = r ∇ log π, where it is not clipped
    assert both(found)[0] == approx(by_policy([0.0, 1.5 * -2.0, 0.5 * 0.5, 0.0, 1.1 * 4.0]))


def test_a_gaussian_policys_gradient_is_that_worked_out_by_hand():
    model = linear(PPO, Box(-1.0, 1.0, (1,), np.float32), normalize_advantage=False, max_grad_norm=None)
    actions, advantages, sigma = [1.0, -3.0, 0.2, 0.0, -1.0], [1.0, -2.0, 0.5, 3.0, -1.0], math.exp(0.3)
    batch = samples(advantages=advantages)._replace(action=torch.tensor(actions).unsqueeze(-1))
    z = [(a - 0.5 * s) / sigma for a, s in zip(actions, STATES, strict=True)]
    log_prob = [-0.5 * x**2 - 0.3 - 0.5 * math.log(2 * math.pi) for x in z]
    batch = batch._replace(old_log_prob=torch.tensor(log_prob))  # so the ratio is 1
    found = model.gradients(batch, torch.tensor(0.2))
    by_mean = [-a * x / sigma / 5 for a, x in zip(advantages, z, strict=True)]
    by_log_std = sum(-a * (x**2 - 1) / 5 for a, x in zip(advantages, z, strict=True))
    assert both(found)[0] == approx([by_log_std, np.dot(by_mean, STATES), sum(by_mean)])
    assert found.metrics["train/entropy"].item() == approx(0.3 + 0.5 * math.log(2 * math.pi * math.e))
    assert found.approx_kl.item() == approx(0.0)


def test_advantages_are_standardized_in_the_minibatch():
    advantages = np.array([1.0, -2.0, 0.5, 3.0, -1.0])
    found = gradients(samples(advantages=advantages.tolist()), normalize_advantage=True)
    assert both(found)[0] == approx(by_policy((advantages - advantages.mean()) / advantages.std(ddof=1)))


def test_the_gradients_of_a_minibatch_of_one_are_finite():
    one = Samples(*(field[:1] for field in samples()[:-1]), {})
    found = gradients(one, normalize_advantage=True)
    assert np.isfinite(np.concatenate(both(found))).all()
    assert all(metric.isfinite() for metric in found.metrics.values())


def test_the_entropy_is_worth_its_coefficient_and_the_value_loss_its_own():
    expected, entropy = np.zeros(4), 0.0
    for s in STATES:
        p = np.array(pi(s))
        h = -(p * np.log(p)).sum()
        by_logit = -p * (np.log(p) + h)  # dH/dlogit
        expected += np.array([*(by_logit * s), *by_logit]) / 5
        entropy += h / 5
    found = gradients(samples())
    policy, value = both(found)
    with_bonus, scaled = both(gradients(samples(), ent_coef=0.3, vf_coef=0.25))
    assert found.metrics["train/entropy"].item() == approx(entropy)
    assert np.subtract(with_bonus, policy) == approx(-0.3 * expected)
    assert scaled == approx(0.25 * np.array(value))


def test_each_optimizers_gradients_are_clipped_by_their_own_norm():
    free = [np.array(own) for own in both(gradients(samples()))]
    norms = [np.linalg.norm(own) for own in free]
    bound = sum(norms) / 2
    assert min(norms) < bound < max(norms)
    clipped = both(gradients(samples(), max_grad_norm=bound))
    for own, own_free, norm in zip(clipped, free, norms, strict=True):
        assert own == approx(own_free * min(1.0, bound / norm))


# The value's loss


def test_the_values_loss_and_gradient_are_those_worked_out_by_hand():
    returns = [1.0, 2.0, -1.0, 0.0, 5.0]
    found = gradients(samples(returns=returns))
    errors = [v(s) - g for s, g in zip(STATES, returns, strict=True)]
    assert found.metrics["train/value_loss"].item() == approx(0.5 * np.square(errors).mean())
    assert both(found)[1] == approx(by_value(errors))
    spread = 1 - np.var(errors) / np.var(returns)
    assert found.metrics["train/explained_variance"].item() == approx(spread)


def test_the_value_itself_is_clipped_around_what_it_was():
    # V = [3, −3, 2, 1, −1], of which the first three have moved by 0.5, −0.5 and 0.1 since
    old, returns = [2.5, -2.5, 1.9, 1.0, -1.0], [4.0, 4.0, -1.0, 0.0, 5.0]
    found = gradients(samples(old_value=old, returns=returns), clip_range_vf=0.2)
    clipped = [2.7, -2.7, 2.0, 1.0, -1.0]
    errors = np.subtract(clipped, returns)
    assert found.metrics["train/value_loss"].item() == approx(0.5 * np.square(errors).mean())
    # no gradient where it is clipped, even where V has moved away from its target, as for the second
    assert both(found)[1] == approx(by_value([0.0, 0.0, *errors[2:]]))


# What a rollout is turned into


@pytest.mark.parametrize(
    ("ends", "returns"),
    [
        # V(4) = 9
        ((0, 0), [1 + 0.5 * (3 + 0.5 * 9), 3 + 0.5 * 9]),
        ((1, 0), [1 + 0.5 * 3, 3.0]),
        ((0, 1), [1 + 0.5 * (3 + 0.5 * 9), 3 + 0.5 * 9]),
        ((1, 1), [1 + 0.5 * 3, 3.0]),
    ],
    ids=["running", "terminated", "truncated", "both"],
)
def test_a_rollout_becomes_samples_with_the_advantages_worked_out_by_hand(ends, returns):
    terminated, truncated = ends
    batch = plain(gamma=0.5, gae_lambda=1.0).with_advantages(
        rollout([[1.0], [-2.0]], [[1], [0]], [[1.0], [3.0]], [[-2.0], [4.0]], [[0], [terminated]], [[0], [truncated]])
    )
    assert batch.returns.tolist() == approx(returns)
    assert batch.old_value.tolist() == approx([3.0, -3.0])
    assert batch.advantage.tolist() == approx([returns[0] - 3.0, returns[1] + 3.0])
    assert batch.old_log_prob.tolist() == approx([math.log(pi(1.0)[1]), math.log(pi(-2.0)[0])])
    assert not any(field.requires_grad for field in batch[:-1])


def test_an_episode_cut_off_inside_a_rollout_goes_on_with_its_last_value_and_no_further():
    # γ λ = 0.4; δ = [1 + 0.5·15 − 3, 3 + 0.5·9 + 3]: V(7) = 15 of the last observation, not −3 of the next reset
    batch = plain(gamma=0.5, gae_lambda=0.8).with_advantages(
        rollout([[1.0], [-2.0]], [[1], [0]], [[1.0], [3.0]], [[7.0], [4.0]], [[0], [0]], [[1], [0]])
    )
    assert batch.advantage.tolist() == approx([1 + 0.5 * 15 - 3, 3 + 0.5 * 9 + 3])


# Whole runs


def train(data, callbacks=(), **settings):
    """A run, and the minibatches of it."""
    model = PPO(data.observation_space, data.action_space, network=TINY, compile=False, **settings)
    seen, gradients = [], model.gradients
    model.gradients = lambda batch, clip_range: seen.append(batch) or gradients(batch, clip_range)
    fit(model, data, make_trainer(callbacks))
    return model, seen


def test_every_epoch_uses_each_sample_exactly_once_in_an_order_of_its_own():
    # 3 environments x 7 steps = 21 samples; 5 epochs of 3 minibatches of 7; 3 rollouts
    data = RolloutDataModule("toys:Counter-v0", num_envs=3, rollout_steps=7, total_env_steps=63)
    counter = GradientSteps()
    model, seen = train(data, [counter], n_epochs=5, batch_size=7)
    assert counter.count == len(seen) == 3 * 5 * 3
    assert {len(batch.returns) for batch in seen} == {7}
    assert model.env_steps == 63
    rollouts = set()
    for first in range(0, 45, 15):
        orders = []
        for start in range(first, first + 15, 3):
            rows = [tuple(row) for batch in seen[start : start + 3] for row in batch.obs.tolist()]  # (episode, t)
            assert max(Counter(rows).values()) == 1
            orders.append(rows)
        assert len({frozenset(rows) for rows in orders}) == 1
        assert len(orders[0]) == 21
        assert len({tuple(rows) for rows in orders}) == 5
        rollouts |= set(orders[0])
    assert len(rollouts) == 63


def test_without_a_batch_size_an_epoch_is_one_minibatch():
    data = RolloutDataModule("toys:Spaces-v0", num_envs=3, rollout_steps=7, total_env_steps=42)
    _, seen = train(data, n_epochs=3, batch_size=None)
    assert [len(batch.returns) for batch in seen] == [21] * 6


def test_ratios_are_to_the_policy_that_acted_with_the_statistics_it_acted_with():
    data = RolloutDataModule("toys:Spaces-v0", num_envs=3, rollout_steps=7, total_env_steps=63)
    model = PPO(
        data.observation_space,
        data.action_space,
        network=TINY,
        n_epochs=2,
        batch_size=7,
        policy_optimizer=sgd(0.5),
        normalize_observations=True,
        compile=False,
    )
    acted, taken, kls = [], [], []

    def act(obs, deterministic=False):
        pi = model.networks.distribution(obs)
        action = pi.sample()
        acted.append(pi.log_prob(action))
        return action

    with_advantages, gradients = model.with_advantages, model.gradients

    def spy(*batch):
        found = gradients(*batch)
        kls.append(found.approx_kl.item())
        return found

    model.act, model.gradients = act, spy
    model.with_advantages = lambda *rollout: taken.append(with_advantages(*rollout)) or taken[-1]
    fit(model, data)
    old, acted = torch.cat([samples.old_log_prob for samples in taken]), torch.cat(acted)
    torch.testing.assert_close(old[21:], acted[21:])
    # the first of the three acted without statistics, and had a policy that hardly looks at observations yet
    torch.testing.assert_close(old[:21], acted[:21], rtol=0.0, atol=0.02)
    assert len(kls) == 18
    assert kls[::6] == pytest.approx([0.0] * 3, abs=1e-6)
    assert min(kl for i, kl in enumerate(kls) if i % 6) > 1e-5


def with_dropout(in_features, out_features):
    return nn.Sequential(nn.Linear(in_features, 8), nn.Dropout(0.5), nn.Linear(8, out_features))


def with_batch_norm(in_features, out_features):
    return nn.Sequential(nn.Linear(in_features, 8), nn.BatchNorm1d(8), nn.Linear(8, out_features))


@pytest.mark.filterwarnings("ignore:network has")
@pytest.mark.parametrize("network", [with_dropout, with_batch_norm])
@pytest.mark.parametrize(("obs", "shared_trunk"), [("vector", False), ("image", False), ("image", True)])
def test_first_ratios_are_1_to_the_policy_that_acted_with_dropout_and_batch_norm_too(network, obs, shared_trunk):
    data = RolloutDataModule("toys:Spaces-v0", {"obs": obs}, num_envs=3, rollout_steps=7, total_env_steps=63)
    model = PPO(
        data.observation_space, data.action_space, network=network, n_epochs=2, batch_size=7, compile=False,
        shared_trunk=shared_trunk, policy_optimizer=sgd(0.1),
    )  # fmt: skip
    nn.init.normal_(model.networks.policy[1].body[2].weight)  # so that the policy looks at observations
    acted, taken, first = [], [], []

    def act(obs, deterministic=False):
        pi = model.networks.distribution(obs)
        action = pi.sample()
        acted.append(pi.log_prob(action))
        return action

    with_advantages, gradients = model.with_advantages, model.gradients

    def spy(*batch):
        found = gradients(*batch)
        first.append((found.approx_kl.item(), found.metrics["train/clip_fraction"].item()))
        return found

    model.act, model.gradients = act, spy
    model.with_advantages = lambda *rollout: taken.append(with_advantages(*rollout)) or taken[-1]
    fit(model, data)
    torch.testing.assert_close(torch.cat([samples.old_log_prob for samples in taken]), torch.cat(acted))
    assert len(first) == 18
    for approx_kl, clip_fraction in first[::6]:
        assert approx_kl == pytest.approx(0.0, abs=1e-6)
        assert clip_fraction == 0.0
    assert min(approx_kl for i, (approx_kl, _) in enumerate(first) if i % 6) > 1e-6


def test_a_rollout_is_left_after_the_minibatch_whose_divergence_is_too_large():
    runs = {}
    for target_kl in (None, 0.01):
        torch.manual_seed(0)
        kls = []

        class Spy(Callback):
            def on_gradient_step_end(self, trainer, pl_module, kls=kls):
                kls.append(pl_module.metrics["train/approx_kl"].item())

        data = RolloutDataModule("toys:Spaces-v0", rollout_steps=20, total_env_steps=20)
        train(data, [Spy()], n_epochs=10, batch_size=5, target_kl=target_kl, policy_optimizer=sgd(0.3))
        runs[target_kl] = kls
    beyond = [kl > 1.5 * 0.01 for kl in runs[None]]
    assert len(runs[None]) == 40
    assert 2 < beyond.index(True) < 30
    assert runs[0.01] == runs[None][: beyond.index(True) + 1]


def test_a_run_goes_on_with_the_next_rollout_after_one_that_was_left():
    data = RolloutDataModule("toys:Spaces-v0", rollout_steps=10, total_env_steps=40)
    counter = GradientSteps()
    model, _ = train(
        data,
        [counter],
        n_epochs=3,
        batch_size=5,
        target_kl=1e-6,
        policy_optimizer=sgd(1.0),
        normalize_observations=True,
    )
    assert counter.count == 4 * 2  # the second minibatch of each is the first with another policy
    assert model.env_steps == model.networks.normalizer.moments[0].count == 40


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.4, 0.4, 0.4, 0.4]),
        ("linear", [0.3, 0.2, 0.1, 1e-6]),
        ("cosine", [0.2 * (1 + math.cos(math.pi * k / 4)) for k in (1, 2, 3)] + [1e-6]),
    ],
)
def test_the_clip_range_follows_its_schedule_over_environment_steps(schedule, expected):
    data = RolloutDataModule("toys:Spaces-v0", num_envs=2, rollout_steps=5, total_env_steps=40)
    model = PPO(
        data.observation_space,
        data.action_space,
        network=TINY,
        batch_size=10,
        n_epochs=1,
        clip_range=0.4,
        clip_range_schedule=schedule,
        compile=False,
    )
    seen, gradients = [], model.gradients
    model.gradients = lambda batch, clip_range: seen.append(clip_range.item()) or gradients(batch, clip_range)
    fit(model, data)
    assert seen == pytest.approx(expected, rel=1e-5)
    assert model.clip_range == 0.4


# Resume


def make(total_env_steps):
    torch.manual_seed(3)
    data = RolloutDataModule(
        "toys:Spaces-v0", num_envs=2, rollout_steps=5, total_env_steps=total_env_steps, env_steps_per_epoch=20,
        eval_episodes=1,
    )  # fmt: skip
    model = PPO(
        data.observation_space, data.action_space, network=TINY, n_epochs=3, batch_size=5, compile=False,
        normalize_observations=True, normalize_returns=True, clip_range_schedule="linear",
    )  # fmt: skip
    return model, data


def fit_with_checkpoints(folder, model, data, ckpt_path=None):
    trainer = Trainer(
        accelerator="cpu", logger=False, callbacks=[ModelCheckpoint(folder, save_last=True)], max_epochs=-1,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, data, ckpt_path=ckpt_path)
    return trainer


def test_a_resumed_run_continues_its_statistics_and_schedule_and_catches_nothing_up(tmp_path):
    fit_with_checkpoints(tmp_path / "first", *make(60))
    saved = torch.load(tmp_path / "first" / "last.ckpt", weights_only=True)
    assert saved["rl_lightning"]["env_steps"] == 60
    assert saved["state_dict"]["networks.normalizer.moments.0.count"] == 60
    assert saved["state_dict"]["networks.return_normalizer.moments.count"] == 60

    model, data = make(100)
    seen, gradients = [], model.gradients
    model.gradients = lambda batch, eps: seen.append((model.env_steps, eps.item())) or gradients(batch, eps)
    trainer = fit_with_checkpoints(tmp_path / "second", model, data, tmp_path / "first" / "last.ckpt")
    # six gradient steps for each rollout of ten environment steps, and none to catch up
    assert [env_steps for env_steps, _ in seen] == [steps for steps in (70, 80, 90, 100) for _ in range(6)]
    assert [clip_range for _, clip_range in seen[::6]] == pytest.approx([0.06, 0.04, 0.02, 1e-6], rel=1e-4)
    assert trainer.global_step == 2 * 6 * 10
    assert model.networks.normalizer.moments[0].count == 100
    assert model.networks.return_normalizer.moments.count == 100


def test_a_resumed_policy_learns_in_eval_mode(tmp_path):
    fit_with_checkpoints(tmp_path / "first", *make(20))
    model, data = make(40)
    seen, gradients = [], model.gradients
    model.gradients = lambda *batch: seen.append(modes(model.networks)) or gradients(*batch)
    model.train()
    fit_with_checkpoints(tmp_path / "second", model, data, tmp_path / "first" / "last.ckpt")
    assert seen == [({False}, {True})] * 2 * 6


def modes(networks):
    """Of all modules of the policy and of the value."""
    return tuple({module.training for module in network.modules()} for network in (networks.policy, networks.value))


def test_the_weights_of_a_policy_load_with_its_statistics(tmp_path):
    model, data = make(40)
    fit_with_checkpoints(tmp_path, model, data)
    again, _ = make(40)
    again.load_weights(tmp_path / "last.ckpt")
    obs = torch.randn(5, 2) * 3
    assert torch.equal(again.networks.values(obs), model.networks.values(obs))
    assert torch.equal(again.act(obs, deterministic=True), model.act(obs, deterministic=True))
    assert again.networks.normalizer.moments[0].count == 40


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rollout_steps": None}, "^rollout_steps=None is not allowed: minibatches of PPO need rollouts of one size"),
        ({"rollout_steps": 9, "num_envs": 2}, "^batch_size=4 is not allowed: .* = 18; give a divisor of it$"),
    ],
)
def test_rollouts_that_minibatches_do_not_divide_are_refused(settings, message):
    data = RolloutDataModule("toys:Spaces-v0", total_env_steps=180, **settings)
    model = PPO(data.observation_space, data.action_space, network=TINY, batch_size=4, compile=False)
    with pytest.raises(UsageError, match=message):
        fit(model, data)
