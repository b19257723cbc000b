"""The same weights and the same rollout in Stable-Baselines3 and here: the same advantages, losses and gradients."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector
from toys import make_trainer

from rl_lightning import A2C, MLP, PPO, TRPO, Rollout, RolloutDataModule

sb3 = pytest.importorskip("stable_baselines3")
sb3_contrib = pytest.importorskip("sb3_contrib")
from stable_baselines3.common.callbacks import BaseCallback  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv  # noqa: E402

GAMMA, GAE_LAMBDA, T, N = 0.9, 0.8, 24, 3
TASKS = {"CartPole-v1": 12, "Pendulum-v1": 5}  # with time limits so short that rollouts have truncations
NETWORK = partial(MLP, hidden_sizes=(8,), activation="tanh")


class Recorder(BaseCallback):
    """The rollout as it is, before SB3 adds the value of cut-off episodes to their last reward."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def _on_step(self):
        local = self.locals
        truncated = np.array([info["TimeLimit.truncated"] for info in local["infos"]])
        next_obs = local["new_obs"].copy()
        for i, info in enumerate(local["infos"]):
            if local["dones"][i]:
                next_obs[i] = info["terminal_observation"]
        fields = (
            self.model._last_obs,
            local["actions"],
            local["rewards"],
            next_obs,
            local["dones"] & ~truncated,
            truncated,
        )
        self.steps.append([torch.as_tensor(np.array(field)) for field in fields])
        return True

    def rollout(self):
        return Rollout(*(torch.stack(field) for field in zip(*self.steps, strict=True)))


def peer(algorithm, env_id, **settings):
    """A model of SB3 with a full rollout buffer, and that rollout."""
    env = DummyVecEnv([partial(gym.make, env_id, max_episode_steps=TASKS[env_id])] * N)
    model = algorithm(
        "MlpPolicy",
        env,
        n_steps=T,
        gamma=GAMMA,
        gae_lambda=GAE_LAMBDA,
        seed=4,
        device="cpu",
        policy_kwargs={"net_arch": {"pi": [8], "vf": [8]}, "ortho_init": False, "log_std_init": -0.3},
        **settings,
    )
    _, recorder = model._setup_learn(T * N, Recorder())
    model.collect_rollouts(model.env, recorder, model.rollout_buffer, n_rollout_steps=T)
    rollout = recorder.rollout()
    if env_id == "CartPole-v1":
        assert rollout.terminated.sum() >= 3
        assert rollout.terminated[-1].logical_not().any()  # there is something to bootstrap from
    assert rollout.truncated.sum() >= 1
    return model, rollout


def ours(algorithm, env_id, theirs, **settings):
    data = RolloutDataModule(env_id, rollout_steps=T, num_envs=N)
    model = algorithm(
        data.observation_space, data.action_space, gamma=GAMMA, gae_lambda=GAE_LAMBDA, network=NETWORK, compile=False,
        **settings,
    )  # fmt: skip
    copy_weights(theirs, model)
    model.trainer = make_trainer()  # it says over how many processes to average
    return model


def pairs(theirs, model):
    """Their parameters of policy and of value, each beside ours, in the order of our gradients."""
    policy, body = theirs.policy, model.networks.policy[1].body
    named = {
        body[0].weight: policy.mlp_extractor.policy_net[0].weight,
        body[0].bias: policy.mlp_extractor.policy_net[0].bias,
        body[2].weight: policy.action_net.weight,
        body[2].bias: policy.action_net.bias,
        getattr(model.networks.policy[1], "log_std", None): getattr(policy, "log_std", None),
    }
    value = [
        *policy.mlp_extractor.value_net[0].parameters(),
        *policy.value_net.parameters(),
    ]
    return [
        [(named[own], own) for own in model.networks.policy.parameters()],
        list(zip(value, model.networks.value.parameters(), strict=True)),
    ]


@torch.no_grad()
def copy_weights(theirs, model):
    for network in pairs(theirs, model):
        for source, target in network:
            target.copy_(source)


def assert_same_gradients(theirs, model, found):
    for name, network in zip(("policy", "value"), pairs(theirs, model), strict=True):
        for (source, _), gradient in zip(network, found.of[name], strict=True):
            assert gradient.abs().max() > 0
            # float32: sums of 72 products in another order
            torch.testing.assert_close(gradient, source.grad, rtol=1e-4, atol=2e-6)


def logged(theirs, name):
    return theirs.logger.name_to_value[f"train/{name}"]


@pytest.mark.parametrize("env_id", TASKS)
@pytest.mark.parametrize("normalize_advantage", [False, True])
def test_a2c_has_its_losses_and_gradients(env_id, normalize_advantage):
    theirs, rollout = peer(
        sb3.A2C, env_id, ent_coef=0.02, vf_coef=0.35, max_grad_norm=1e9, normalize_advantage=normalize_advantage
    )
    # half of their mean squared error is our loss
    model = ours(
        A2C, env_id, theirs, ent_coef=0.02, vf_coef=0.7, max_grad_norm=None, normalize_advantage=normalize_advantage
    )
    found = model.gradients(rollout)
    metrics = found.metrics
    theirs.train()
    assert metrics["train/policy_loss"].item() == pytest.approx(logged(theirs, "policy_loss"), rel=1e-4, abs=1e-6)
    assert 2 * metrics["train/value_loss"].item() == pytest.approx(logged(theirs, "value_loss"), rel=1e-5)
    assert metrics["train/entropy"].item() == pytest.approx(-logged(theirs, "entropy_loss"), rel=1e-5)
    assert metrics["train/explained_variance"].item() == pytest.approx(
        logged(theirs, "explained_variance"), rel=1e-4, abs=1e-5
    )
    assert_same_gradients(theirs, model, found)


@pytest.mark.parametrize("env_id", TASKS)
def test_ppo_has_its_advantages_and_returns(env_id):
    theirs, rollout = peer(sb3.PPO, env_id, batch_size=T * N)
    samples = ours(PPO, env_id, theirs).with_advantages(rollout)
    buffer = theirs.rollout_buffer
    for got, expected in (
        (samples.advantage, buffer.advantages),
        (samples.returns, buffer.returns),
        (samples.old_value, buffer.values),
        (samples.old_log_prob, buffer.log_probs),
    ):
        torch.testing.assert_close(got.view(T, N), torch.as_tensor(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("env_id", TASKS)
@pytest.mark.parametrize("clip_range_vf", [None, 0.15])
def test_ppo_has_its_losses_and_gradients_after_the_policy_has_moved(env_id, clip_range_vf):
    settings = {"ent_coef": 0.02, "clip_range": 0.1, "clip_range_vf": clip_range_vf, "n_epochs": 1}
    theirs, rollout = peer(sb3.PPO, env_id, batch_size=T * N, vf_coef=0.35, max_grad_norm=1e9, **settings)
    model = ours(PPO, env_id, theirs, vf_coef=0.7, max_grad_norm=None, **settings)
    samples = model.with_advantages(rollout)
    with torch.no_grad():  # as far as several epochs would take it
        for parameter in theirs.policy.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    copy_weights(theirs, model)
    found = model.gradients(samples, model.present_clip_range())
    metrics = found.metrics
    theirs.train()
    assert 0.1 < metrics["train/clip_fraction"].item() < 0.9
    for name, theirs_name, factor in (
        ("policy_loss", "policy_gradient_loss", 1),
        ("value_loss", "value_loss", 2),
        ("entropy", "entropy_loss", -1),
        ("approx_kl", "approx_kl", 1),
        ("clip_fraction", "clip_fraction", 1),
        ("explained_variance", "explained_variance", 1),
    ):
        expected = pytest.approx(logged(theirs, theirs_name), rel=1e-4, abs=1e-5)
        assert factor * metrics[f"train/{name}"].item() == expected, name
    assert_same_gradients(theirs, model, found)


@pytest.mark.parametrize("env_id", TASKS)
@pytest.mark.parametrize(
    ("normalize_advantage", "cg_damping", "tolerance"),
    # conjugate gradients amplify rounding, 1e-7, by the condition number, which damping bounds: here about 10, and
    # about 1000, over ten iterations
    [(True, 0.1, 1e-4), (False, 0.1, 1e-4), (True, 1e-3, 1e-2)],
)
def test_trpo_takes_its_step_of_the_policy(env_id, normalize_advantage, cg_damping, tolerance, monkeypatch):
    settings = {
        "target_kl": 0.01, "cg_max_steps": 10, "cg_damping": cg_damping, "line_search_shrinking_factor": 0.8,
        "line_search_max_iter": 10, "n_critic_updates": 1, "batch_size": T * N,
        "normalize_advantage": normalize_advantage,
    }  # fmt: skip
    theirs, rollout = peer(sb3_contrib.TRPO, env_id, **settings)
    model = ours(TRPO, env_id, theirs, **settings)
    start = parameters_to_vector(model.networks.policy.parameters()).detach()
    samples = model.with_advantages(rollout)
    metrics = model.step_policy(samples)
    found = model.gradients(samples)

    # their conjugate gradients start from noise of 1e-4 instead of 0
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    theirs.train()
    policy, value = pairs(theirs, model)
    expected = parameters_to_vector([source for source, _ in policy]).detach()
    got = parameters_to_vector([own for _, own in policy]).detach()
    step = (expected - start).norm()
    assert step > 0.1
    assert (got - expected).norm() < tolerance * step
    assert (metrics["train/line_search_tries"] > 1) == (cg_damping == 1e-3)  # with and without shortened steps
    assert metrics["train/policy_loss"].item() == pytest.approx(
        -logged(theirs, "policy_objective"), rel=tolerance, abs=1e-5
    )
    for (source, _), gradient in zip(value, found.of["value"], strict=True):
        torch.testing.assert_close(2 * gradient, source.grad, rtol=1e-4, atol=1e-5)
