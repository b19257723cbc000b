"""What holds of every on-policy learner: a shared trunk, modes, spaces, statistics, and whole runs."""

import warnings
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from linear import sgd
from torch.optim import Adam
from toys import LINEAR, TINY, SpacesEnv, fit, make_trainer, tiny_sac

from rl_lightning import (
    A2C,
    MLP,
    PPO,
    REINFORCE,
    TRPO,
    ActorCritic,
    ReplayDataModule,
    Rollout,
    RolloutDataModule,
    UsageError,
)

LEARNERS = [REINFORCE, ActorCritic, A2C, PPO, TRPO]
ROLLOUTS = {
    REINFORCE: {"rollout_steps": None},
    ActorCritic: {"rollout_steps": 1, "env_steps_per_batch": 10},
    A2C: {"rollout_steps": 5, "num_envs": 2},
    PPO: {"rollout_steps": 10, "num_envs": 2},
    TRPO: {"rollout_steps": 10, "num_envs": 2},
}
MEDIUM = partial(MLP, hidden_sizes=(32,))
SETTINGS = {PPO: {"n_epochs": 2, "batch_size": 10}, TRPO: {"n_critic_updates": 2, "batch_size": 10}}


def rollout_data(learner, env_id="toys:Spaces-v0", total_env_steps=60, **settings):
    return RolloutDataModule(env_id, total_env_steps=total_env_steps, **{**ROLLOUTS[learner], **settings})


def learner_for(learner, data, network=TINY, **settings):
    if learner is not REINFORCE:
        settings["compile"] = False
    settings = {**SETTINGS.get(learner, {}), **settings}
    return learner(data.observation_space, data.action_space, network=network, **settings)


def optimizers(learner, policy, value):
    """TRPO's policy has none."""
    return {"value_optimizer": value} if learner is TRPO else {"policy_optimizer": policy, "value_optimizer": value}


def copies(module):
    return {name: tensor.detach().clone() for name, tensor in module.named_parameters()}


def changed(module, before):
    return {name for name, tensor in module.named_parameters() if not torch.equal(tensor, before[name])}


# A shared trunk


@pytest.mark.parametrize("learner", [A2C, PPO])
def test_a_shared_trunk_is_moved_by_the_policys_optimizer_along_both_losses(learner):
    data = rollout_data(learner, env_kwargs={"obs": "image"}, total_env_steps=20)
    settings = {"shared_trunk": True, "max_grad_norm": None, "ent_coef": 0.0}
    model = learner_for(learner, data, vf_coef=0.7, **settings)
    seen, gradients = [], model.gradients
    model.gradients = lambda *batch: seen.append((batch, copies(model), gradients(*batch).of)) or gradients(*batch)
    trainer = fit(model, data)
    batch, start, of = seen[0]
    policy, value = of["policy"], of["value"]

    trunk, head = model.networks.policy
    assert len(policy) == len(list(trunk.parameters())) + len(list(head.parameters())) == 8 + 4
    assert len(value) == len(list(model.networks.value.parameters())) == 4
    owned = [{id(p) for group in o.param_groups for p in group["params"]} for o in trainer.optimizers]
    assert {id(p) for p in trunk.parameters()} < owned[0]
    assert not {id(p) for p in trunk.parameters()} & owned[1]

    # the trunk's gradient is linear in vf_coef: that of the policy's loss, and vf_coef times that of the value's
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(start[name])
    at = {}
    for vf_coef in (1e-9, 1.0):
        model.vf_coef = vf_coef
        at[vf_coef] = gradients(*batch).of["policy"]
    for got, of_policy, of_both in zip(policy[:8], at[1e-9], at[1.0], strict=False):
        assert of_policy.abs().max() > 0
        assert (of_both - of_policy).abs().max() > 1e-4
        torch.testing.assert_close(got, of_policy + 0.7 * (of_both - of_policy), rtol=1e-3, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(at[1e-9][8:], at[1.0][8:], strict=True))  # the policy's head
    fit(model, data)
    assert changed(model, start) == set(start)


# Modes


def modes(networks):
    """Of all modules of the policy and of the value."""
    return tuple({module.training for module in network.modules()} for network in (networks.policy, networks.value))


@pytest.mark.parametrize("before", [True, False], ids=["after train()", "as constructed"])
@pytest.mark.parametrize("learner", LEARNERS)
def test_the_policy_acts_and_learns_in_eval_mode_and_the_value_learns_in_train_mode(learner, before):
    data = rollout_data(learner, eval_episodes=2, env_steps_per_epoch=20, env_steps_per_batch=20)
    model = learner_for(learner, data)
    assert modes(model.networks) == ({False}, {True})
    if before:
        model.train()
    seen, act, gradients = [], model.act, model.gradients

    def spy(obs, deterministic=False):
        seen.append(("evaluate" if deterministic else "act", modes(model.networks)))
        return act(obs, deterministic)

    model.act = spy
    model.gradients = lambda *batch: seen.append(("learn", modes(model.networks))) or gradients(*batch)
    fit(model, data, make_trainer(validate=True))
    names = [name for name, _ in seen]
    assert "learn" in names[names.index("evaluate") :]
    for name, (policy, value) in seen:
        assert policy == {False}
        assert value == {name == "learn"}


@pytest.mark.parametrize("frozen_value", [False, True])
def test_lightning_does_not_warn_of_the_policys_mode_and_does_of_another_modules(frozen_value):
    data = rollout_data(PPO, total_env_steps=20)
    model = learner_for(PPO, data)
    if frozen_value:
        model.networks.value.eval()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, data)
    assert any("in eval mode at the start of training" in str(w.message) for w in caught) is frozen_value


# What they refuse


@pytest.mark.parametrize("learner", LEARNERS)
def test_replay_is_refused(learner):
    data = ReplayDataModule("toys:Spaces-v0", {"action": "box"}, total_env_steps=100, learning_starts=10)
    with pytest.raises(
        UsageError,
        match=rf"^datamodule=ReplayDataModule is not allowed with {learner.__name__}: it learns from a "
        r"RolloutDataModule; give that as data$",
    ):
        fit(learner_for(learner, data), data)


def test_rollouts_are_refused_by_a_learner_from_replay():
    data = RolloutDataModule("toys:Match-v0", total_env_steps=256)
    with pytest.raises(
        UsageError, match=r"^datamodule=RolloutDataModule is not allowed with SAC: .* ReplayDataModule;"
    ):
        fit(tiny_sac(data.observation_space, data.action_space), data)


# Spaces


@pytest.mark.parametrize(
    ("learner", "obs", "action"),
    [
        *((learner, "vector", action) for learner in LEARNERS for action in SpacesEnv.ACTIONS),
        *((PPO, obs, "discrete") for obs in SpacesEnv.OBSERVATIONS if obs != "vector"),
    ],
)
def test_every_kind_of_space_trains_and_evaluates(learner, obs, action):
    data = rollout_data(learner, env_kwargs={"obs": obs, "action": action}, total_env_steps=60, eval_episodes=2)
    model = learner_for(learner, data, log_std_init=1.0)  # so actions leave their space, and must be clipped
    before = copies(model)
    trainer = make_trainer(validate=True)
    trainer.fit(model, data)
    assert model.env_steps == 60
    assert changed(model, before) == set(before)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert trainer.validate(model, data, verbose=False)[0]["val/episode_length_mean"] == 5.0
    assert model.act(batch_of(data.observation_space), deterministic=True).shape[1:] == data.action_space.shape


def batch_of(space, size=3):
    samples = [space.sample() for _ in range(size)]
    if isinstance(space, gym.spaces.Dict):
        return {key: torch.as_tensor(np.stack([sample[key] for sample in samples])) for key in space.spaces}
    return torch.as_tensor(np.stack(samples))


# Running statistics


@pytest.mark.parametrize("learner", [A2C, PPO, TRPO])
def test_statistics_take_in_each_real_transition_once_and_are_frozen_in_evaluation(learner):
    data = rollout_data(learner, env_id="toys:Counter-v0", total_env_steps=80, eval_episodes=3)
    model = learner_for(learner, data, normalize_observations=True, normalize_returns=True)
    rollouts, gather_rollout = [], data.rollout
    data.rollout = lambda: rollouts.append(gather_rollout()) or rollouts[-1]
    trainer = make_trainer(validate=True)
    trainer.fit(model, data)

    obs = torch.cat([rollout.obs.flatten(0, 1) for rollout in rollouts]).double()
    moments, returns = model.networks.normalizer.moments[0], model.networks.return_normalizer.moments
    assert len(obs) == moments.count == returns.count == model.env_steps == 80
    np.testing.assert_allclose(moments.mean, obs.mean(0), rtol=1e-4)
    np.testing.assert_allclose(moments.var, obs.var(0, correction=0), rtol=1e-3)

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert {"networks.normalizer.moments.0.mean", "networks.return_normalizer.moments.var"} < before.keys()
    trainer.validate(model, data, verbose=False)
    trainer.test(model, data, verbose=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_first_rollout_is_learned_from_with_its_own_statistics_and_the_next_with_those_before_it():
    data = rollout_data(PPO, env_id="toys:Counter-v0", total_env_steps=80)
    networks = learner_for(PPO, data, normalize_observations=True).networks
    moments = networks.normalizer.moments[0]

    def rollout(mean):
        no, zero = torch.zeros(4, 2, dtype=torch.bool), torch.zeros(4, 2)
        return Rollout(mean + torch.randn(4, 2, *data.observation_space.shape), zero, zero, zero, no, no)

    def gather(tensor):
        return tensor.unsqueeze(0)

    first, second = rollout(100.0), rollout(-100.0)
    networks.scale_rewards(first, gather)
    assert moments.count == 8
    torch.testing.assert_close(moments.mean, first.obs.flatten(0, 1).mean(0))
    networks.observe(first, gather)
    assert moments.count == 8
    networks.scale_rewards(second, gather)
    assert moments.count == 8
    networks.observe(second, gather)
    assert moments.count == 16
    torch.testing.assert_close(moments.mean, torch.cat([first.obs, second.obs]).flatten(0, 1).mean(0))


# Whole runs


@pytest.mark.parametrize(
    ("ending", "length", "states", "expected"),
    [
        ("truncate", 3, 1, [1 / (1 - 0.6)]),
        ("both", 1, 1, [1.0]),
        ("terminate", 3, 3, [1 + 0.6 + 0.36, 1 + 0.6, 1.0]),
    ],
)
@pytest.mark.parametrize("learner", LEARNERS)
def test_the_value_bootstraps_at_a_time_limit_and_not_at_termination(learner, ending, length, states, expected):
    settings = {A2C: {"max_grad_norm": None}, PPO: {"max_grad_norm": None, "n_epochs": 5}}.get(learner, {})
    lr = {REINFORCE: 0.1, ActorCritic: 0.25, A2C: 0.5, PPO: 0.5, TRPO: 0.5}[learner]
    data = rollout_data(
        learner,
        env_id="toys:RewardOne-v0",
        env_kwargs={"ending": ending, "length": length, "states": states},
        total_env_steps={REINFORCE: 150, ActorCritic: 200, A2C: 600, PPO: 400, TRPO: 400}[learner],
    )
    model = learner_for(learner, data, network=LINEAR, gamma=0.6, **optimizers(learner, sgd(0.0), sgd(lr)), **settings)
    fit(model, data)
    with torch.no_grad():
        assert model.networks.values(torch.eye(states)).tolist() == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("learner", "env_steps", "lr", "settings"),
    [
        (REINFORCE, 400, 5e-2, {}),
        (ActorCritic, 2000, 3e-2, {}),
        (A2C, 2000, 3e-2, {}),
        (PPO, 1500, 1e-2, {"n_epochs": 4, "batch_size": 50}),
        (TRPO, 1500, 1e-2, {"batch_size": 50}),
    ],
)
def test_it_learns_to_answer_a_bandit_with_its_context(learner, env_steps, lr, settings):
    rollouts = {
        REINFORCE: {"env_steps_per_batch": 100},
        PPO: {"num_envs": 10},
        TRPO: {"num_envs": 10},
    }.get(learner, {"num_envs": 10, "rollout_steps": 1, "env_steps_per_batch": 100})
    data = rollout_data(learner, "toys:Bandit-v0", env_steps, eval_episodes=50, **rollouts)
    adam = partial(Adam, lr=lr)
    model = learner_for(learner, data, network=MEDIUM, **optimizers(learner, adam, adam), **settings)
    trainer = make_trainer(validate=True)
    before = trainer.validate(model, data, verbose=False)[0]["val/return_mean"]
    fit(model, data)
    with torch.no_grad():
        right = model.networks.distribution(torch.arange(3)).log_prob(torch.arange(3)).exp()
    assert before < 0.8
    assert right.min() > 0.85
    assert trainer.validate(model, data, verbose=False)[0]["val/return_mean"] == 1.0


@pytest.mark.parametrize(
    ("learner", "env_steps", "settings"),
    [
        (A2C, 4000, {}),
        (PPO, 2000, {"n_epochs": 5, "batch_size": 50}),
        (TRPO, 3000, {"batch_size": 50}),
    ],
)
def test_it_learns_to_answer_with_the_number_it_sees(learner, env_steps, settings):
    rollouts = {"num_envs": 20, "rollout_steps": 1 if learner is A2C else 10}
    data = rollout_data(learner, "toys:Match-v0", env_steps, eval_episodes=50, **rollouts)
    adam = partial(Adam, lr=1e-2)
    model = learner_for(learner, data, network=MEDIUM, log_std_init=-0.7, **optimizers(learner, adam, adam), **settings)
    trainer = make_trainer(validate=True)
    before = trainer.validate(model, data, verbose=False)[0]["val/return_mean"]
    fit(model, data)
    assert before < -0.1
    assert trainer.validate(model, data, verbose=False)[0]["val/return_mean"] > -0.03
