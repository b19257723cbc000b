"""What holds of every learner of continuous actions: what gradients depend on, noise, and whole runs."""

from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch.optim import SGD, Adam
from toys import LINEAR, TINY, fit, make_trainer, one_step

from rl_lightning import DDPG, SAC, TD3, ActionNoise, ReplayDataModule, SACv2, Transition

LEARNERS = [DDPG, TD3, SACv2]  # SAC's own file has most of this
TARGETS = {
    DDPG: {"target_q": "q", "target_policy": "policy"},
    TD3: {"target_q": "q", "target_policy": "policy"},
    SACv2: {"target_q": "q"},
    SAC: {"target_value": "value"},
}
OBS = Box(-np.inf, np.inf, (3,), np.float32)
ACTION = Box(-1.0, 1.0, (2,), np.float32)


def tiny(learner, observation_space=OBS, action_space=ACTION, **settings):
    if learner is TD3:
        settings = {"policy_delay": 1, **settings}
    return learner(observation_space, action_space, **{"network": TINY, "compile": False, **settings})


def gradients_of(model, batch):
    """With one noise for all."""
    torch.manual_seed(2)
    return model.gradients(batch, True) if isinstance(model, TD3) else model.gradients(batch)


def random_batch(size=32) -> Transition:
    return Transition(
        torch.randn(size, 3),
        torch.rand(size, 2) * 2 - 1,
        torch.randn(size),
        torch.randn(size, 3),
        torch.rand(size) < 0.3,
        torch.rand(size),
        torch.rand(size),
    )


def equal(one, other):
    return [torch.equal(a, b) for a, b in zip(one, other, strict=True)]


# What depends on what


@pytest.mark.parametrize("learner", LEARNERS)
def test_each_losses_gradients_depend_on_its_own_inputs_alone(learner):
    model, batch = tiny(learner), random_batch()
    before = gradients_of(model, batch).of
    assert all(gradient.abs().sum() > 0 for own in before.values() for gradient in own)

    def unchanged(batch=batch):
        after = gradients_of(model, batch).of
        return {name for name in before if all(equal(before[name], after[name]))}

    assert unchanged() == {*before}
    others = {*before} - {"q"}
    for field in ("reward", "discount", "weight"):  # they reach J_Q alone: a loss summed with another would show it
        assert unchanged(batch._replace(**{field: getattr(batch, field) + 1})) == others
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():  # so do the targets
        next(model.target_q.parameters()).add_(1)
    assert unchanged() == others
    model.load_state_dict(start)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.1)
    # the policy reaches the target of J_Q in SAC, where there is no target policy
    assert unchanged() == (set() if learner is SACv2 else {"q"})


@pytest.mark.parametrize("learner", [*LEARNERS, SAC])
def test_targets_start_as_copies_of_their_own_storage_and_follow_what_they_copy(learner):
    model = tiny(learner)
    for target, online in TARGETS[learner].items():
        for old, new in zip(getattr(model, online).parameters(), getattr(model, target).parameters(), strict=True):
            assert torch.equal(old, new)
            assert old.data_ptr() != new.data_ptr()
    assert [(id(online), id(target)) for online, target in model.target_networks()] == [
        (id(getattr(model, online)), id(getattr(model, target))) for target, online in TARGETS[learner].items()
    ]
    if learner is not DDPG:
        assert not any(equal(model.q.q1.parameters(), model.q.q2.parameters()))


@pytest.mark.parametrize("learner", LEARNERS)
def test_an_infinite_value_after_termination_does_not_poison_the_gradients(learner):
    model, batch = tiny(learner), random_batch()
    batch.next_obs[batch.terminated] = 1e38
    assert batch.terminated.any()
    found = gradients_of(model, batch)
    assert all(metric.isfinite().all() for metric in found.metrics.values())
    assert all(gradient.isfinite().all() for own in found.of.values() for gradient in own)


# Acting


@pytest.mark.parametrize("correlation", [0.0, 0.85])
@pytest.mark.parametrize("learner", LEARNERS)
def test_actions_stay_in_bounds_whatever_the_noise(learner, correlation):
    model = tiny(learner, noise=partial(ActionNoise, std=10.0, correlation=correlation))
    actions = model.act(torch.randn(200, 3))
    assert actions.shape == (200, 2)
    assert actions.abs().max() == 1.0
    assert {-1.0, 1.0} < {*actions.flatten().tolist()}


@pytest.mark.parametrize("learner", LEARNERS)
def test_deterministic_actions_have_no_noise_and_others_have(learner):
    model, obs = tiny(learner, noise=partial(ActionNoise, std=0.1)), torch.randn(200, 3)
    assert torch.equal(model.act(obs, deterministic=True), model.act(obs, deterministic=True))
    assert not torch.equal(model.act(obs), model.act(obs))
    if learner is not SACv2:
        model = tiny(learner, noise=partial(ActionNoise, std=0.0))
        assert torch.equal(model.act(obs), model.act(obs, deterministic=True))


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
@pytest.mark.parametrize("learner", LEARNERS)
def test_q_bootstraps_at_a_time_limit_and_not_at_termination(learner, ending, length, states, expected):
    data = ReplayDataModule(
        "toys:RewardOne-v0",
        {"ending": ending, "length": length, "states": states},
        learning_starts=64,
        total_env_steps=384,
        batch_size=32,
        buffer_size=400,
    )
    settings = {"ent_coef": 1e-6, "ent_coef_optimizer": None} if learner is SACv2 else {}
    model = tiny(
        learner, data.observation_space, data.action_space, gamma=0.6, tau=0.5, network=LINEAR,
        q_optimizer=partial(SGD, lr=0.4), **settings,
    )  # fmt: skip
    fit(model, data)
    obs = torch.eye(states)
    with torch.no_grad():
        for network in (model.q, model.target_q):
            q = network(obs, model.act(obs, deterministic=True))
            for values in (q,) if learner is DDPG else q:
                assert values.tolist() == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("learner", LEARNERS)
def test_it_learns_to_answer_with_the_number_it_sees(learner):
    data = ReplayDataModule(
        "toys:Match-v0", learning_starts=200, total_env_steps=700, batch_size=64, buffer_size=2000, eval_episodes=50
    )
    settings = {"ent_coef": 0.1} if learner is SACv2 else {}
    names = ["q", "policy", "ent_coef"] if learner is SACv2 else ["q", "policy"]
    lr = {f"{name}_optimizer": partial(Adam, lr=1e-2) for name in names}
    network = partial(TINY.func, hidden_sizes=(32,))
    model = learner(data.observation_space, data.action_space, network=network, compile=False, **lr, **settings)
    trainer = make_trainer(validate=True)
    before = trainer.validate(model, data, verbose=False)[0]["val/return_mean"]
    fit(model, data)
    after = trainer.validate(model, data, verbose=False)[0]["val/return_mean"]
    assert before < -0.1
    assert after > -0.01


@pytest.mark.parametrize("learner", [*LEARNERS, SAC])
def test_all_weights_zero_learn_nothing_from_a_batch_and_twice_the_weights_twice_as_much(learner):
    model, batch = tiny(learner), random_batch()._replace(weight=torch.ones(32))
    losses = []
    for weight in (0.0, 1.0, 2.0):
        found = gradients_of(model, batch._replace(weight=torch.full((32,), weight)))
        losses.append((found.metrics["train/q_loss"].item(), sum(g.abs().sum().item() for g in found.of["q"])))
    assert losses[0] == (0.0, 0.0)
    assert losses[1][0] > 0
    assert losses[2] == pytest.approx((2 * losses[1][0], 2 * losses[1][1]), rel=1e-5)


def test_sac_discounts_with_the_batch_too():
    model = tiny(SAC, gamma=0.0)
    for gamma, expected in ((0.0, 1.0), (0.5, 1.0 + 0.5 * 3.0)):
        torch.nn.init.zeros_(model.target_value.body[-1].weight)
        torch.nn.init.constant_(model.target_value.body[-1].bias, 3.0)
        obs = torch.randn(2, 3)
        batch = one_step(obs, torch.zeros(2, 2), torch.ones(2), obs, torch.tensor([False, True]), gamma)
        assert model.q_hat(batch).tolist() == [expected, 1.0]
