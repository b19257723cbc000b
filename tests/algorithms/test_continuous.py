"""What holds of every learner of continuous actions: who moves what, spaces, refusals, and whole runs."""

import math
import shutil
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from lightning.pytorch import Callback
from torch.optim import SGD, Adam
from toys import LINEAR, TINY, SpacesEnv, fit, make_trainer, noise_data, one_step

from rl_lightning import DDPG, SAC, TD3, ReplayDataModule, SACv2, Transition, UsageError
from rl_lightning.fast.compilation import compiled_or_eager
from rl_lightning.types import map_obs

LEARNERS = [DDPG, TD3, SACv2]  # SAC's own file has most of this
NETWORKS = {DDPG: ["q", "policy"], TD3: ["q", "policy"], SACv2: ["q", "policy", "temperature"]}
TARGETS = {
    DDPG: {"target_q": "q", "target_policy": "policy"},
    TD3: {"target_q": "q", "target_policy": "policy"},
    SACv2: {"target_q": "q"},
}
OBS = Box(-np.inf, np.inf, (3,), np.float32)
ACTION = Box(-1.0, 1.0, (2,), np.float32)


def tiny(learner, observation_space=OBS, action_space=ACTION, **settings):
    if learner is TD3:
        settings = {"policy_delay": 1, **settings}
    return learner(observation_space, action_space, **{"network": TINY, "compile": False, **settings})


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


def optimizers(learner, **lr):
    names = {"q": "q_optimizer", "policy": "policy_optimizer", "temperature": "ent_coef_optimizer"}
    return {names[name]: partial(SGD, lr=lr.get(name, 0.0)) for name in NETWORKS[learner]}


def equal(one, other):
    return [torch.equal(a, b) for a, b in zip(one, other, strict=True)]


# What may move what


@pytest.mark.parametrize("learner", LEARNERS)
def test_gradients_is_pure(learner):
    model, batch = tiny(learner), random_batch()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copy = Transition(*(field.clone() for field in batch))
    metrics, gradients = model.gradients(batch)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(equal(batch, copy))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(tensor.requires_grad for tensor in [*metrics.values(), *(g for own in gradients for g in own)])
    assert metrics.pop("train/td_error").shape == (32,)
    assert all(metric.shape == () for metric in metrics.values())


@pytest.mark.parametrize(("learner", "moved"), [(learner, name) for learner in LEARNERS for name in NETWORKS[learner]])
def test_each_optimizer_moves_only_its_own_parameters_and_all_of_them(learner, moved):
    data = noise_data(total_env_steps=20)
    # the averaging is left to another test: it would move targets of what moves
    settings = {} if learner is TD3 else {"target_update_interval": 1000}
    model = tiny(learner, data.observation_space, data.action_space, **optimizers(learner, **{moved: 0.01}), **settings)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    fit(model, data)
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    networks = {moved} if learner is not TD3 else {moved, f"target_{moved}"}
    assert changed == {name for name in before if name.split(".")[0] in networks}


@pytest.mark.parametrize("learner", LEARNERS)
def test_each_losses_gradients_are_of_its_own_parameters_and_depend_on_its_own_inputs(learner):
    model, batch = tiny(learner), random_batch()

    def gradients(batch=batch):
        torch.manual_seed(2)
        return dict(zip(NETWORKS[learner], model.gradients(batch)[1], strict=True))

    before = gradients()
    for name, own in before.items():
        parameters = list(getattr(model, name).parameters())
        assert [gradient.shape for gradient in own] == [parameter.shape for parameter in parameters]
        assert all(gradient.abs().sum() > 0 for gradient in own)

    def unchanged(after):
        return {name for name in before if all(equal(before[name], after[name]))}

    others = {name for name in NETWORKS[learner] if name != "q"}
    for field in ("reward", "discount", "weight"):  # they reach J_Q alone: a loss summed with another would show it
        assert unchanged(gradients(batch._replace(**{field: getattr(batch, field) + 1}))) == others
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():  # so do the targets
        next(model.target_q.parameters()).add_(1)
    assert unchanged(gradients()) == others
    model.load_state_dict(start)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.1)
    # the policy reaches the target of J_Q in SAC, where there is no target policy
    assert unchanged(gradients()) == (set() if learner is SACv2 else {"q"})


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_parameter_has_one_optimizer_but_the_targets_which_have_none(learner):
    data = noise_data(total_env_steps=20)
    model = tiny(learner, data.observation_space, data.action_space)
    trainer = fit(model, data)
    owned = [{id(p) for group in o.param_groups for p in group["params"]} for o in trainer.optimizers]
    assert owned == [{id(p) for p in getattr(model, name).parameters()} for name in NETWORKS[learner]]
    targets = [parameter for name in TARGETS[learner] for parameter in getattr(model, name).parameters()]
    assert not any(parameter.requires_grad for parameter in targets)
    assert sum(map(len, owned)) + len(targets) == len(list(model.parameters()))


@pytest.mark.parametrize("learner", LEARNERS)
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
    metrics, gradients = model.gradients(batch)
    assert all(metric.isfinite().all() for metric in metrics.values())
    assert all(gradient.isfinite().all() for own in gradients for gradient in own)


@pytest.mark.skipif(not shutil.which("g++") and not shutil.which("clang++"), reason="there is no C++ compiler")
@pytest.mark.parametrize("learner", LEARNERS)
def test_compiled_gradients_equal_eager_ones(learner):
    model, batch = tiny(learner), random_batch()
    results = []
    # else compiled code draws other numbers; and a warning would mean that nothing was compiled
    with torch._inductor.config.patch(fallback_random=True), warnings.catch_warnings():
        warnings.filterwarnings("error", message="gradients run eagerly")
        for function in (model.gradients, compiled_or_eager(model.gradients)):
            torch.manual_seed(0)
            results.append(function(batch))
    (eager_metrics, eager), (compiled_metrics, compiled) = results
    torch.testing.assert_close(compiled_metrics, eager_metrics)
    for own, own_eager in zip(compiled, eager, strict=True):
        torch.testing.assert_close(tuple(own), tuple(own_eager))


# Acting


@pytest.mark.parametrize("theta", [1.0, 0.15])
@pytest.mark.parametrize("learner", LEARNERS)
def test_actions_stay_in_bounds_whatever_the_noise(learner, theta):
    model = tiny(learner, noise_std=10.0, noise_theta=theta)
    actions = model.act(torch.randn(200, 3))
    assert actions.shape == (200, 2)
    assert actions.abs().max() == 1.0
    assert {-1.0, 1.0} < {*actions.flatten().tolist()}


@pytest.mark.parametrize("learner", LEARNERS)
def test_deterministic_actions_have_no_noise_and_others_have(learner):
    model, obs = tiny(learner, noise_std=0.1), torch.randn(200, 3)
    assert torch.equal(model.act(obs, deterministic=True), model.act(obs, deterministic=True))
    assert not torch.equal(model.act(obs), model.act(obs))
    if learner is not SACv2:
        model = tiny(learner, noise_std=0.0)
        assert torch.equal(model.act(obs), model.act(obs, deterministic=True))


@pytest.mark.parametrize("learner", [*LEARNERS, SAC])
@pytest.mark.parametrize("obs", SpacesEnv.OBSERVATIONS)
def test_any_observation_is_acted_on_and_learnt_from(learner, obs):
    data = ReplayDataModule(
        "toys:Spaces-v0", {"obs": obs, "action": "box"}, learning_starts=12, total_env_steps=15, batch_size=8,
        buffer_size=100,
    )  # fmt: skip
    model = tiny(learner, data.observation_space, data.action_space)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    fit(model, data)
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all()
        if parameter.ndim > 1:  # biases of dead units stay
            assert not torch.equal(parameter, before[name]), name
    several = [data.observation_space.sample() for _ in range(4)]
    batch = map_obs(lambda *one: torch.from_numpy(np.stack([np.asarray(x) for x in one])), *several)
    actions = model.act(batch, deterministic=True)
    assert actions.shape == (4, 2)
    assert actions.abs().max() <= 1
    assert len(actions.unique(dim=0)) > 1


# Refusals


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gamma", -0.1), ("gamma", 1.1), ("gamma", math.nan),
        ("tau", 0.0), ("tau", 1.1), ("tau", math.nan),
        ("noise_std", -0.1), ("noise_std", math.nan), ("noise_final_std", -0.1), ("noise_final_std", math.nan),
        ("noise_theta", 0.0), ("noise_theta", 1.1), ("noise_theta", math.nan),
        ("noise_schedule", "sudden"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_value_out_of_range_is_refused_by_name(learner, key, value):
    with pytest.raises(UsageError, match=f"^{key}=.* is not allowed: ") as caught:
        tiny(learner, **{key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("learner", "key", "value"),
    [
        *((learner, "target_update_interval", 0) for learner in (DDPG, SACv2)),
        *((TD3, "policy_delay", value) for value in (0, -1)),
        *((TD3, key, value) for key in ("target_policy_noise", "target_noise_clip") for value in (-0.1, math.nan)),
        *((SACv2, "ent_coef", value) for value in (0.0, -1.0, math.nan, math.inf)),
        *((SACv2, "target_entropy", value) for value in (math.nan, math.inf)),
    ],
)
def test_a_value_of_its_own_out_of_range_is_refused_by_name(learner, key, value):
    with pytest.raises(UsageError, match=f"^{key}={value!r} is not allowed: ") as caught:
        tiny(learner, **{key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize(
    ("space", "what"),
    [
        (Tuple([OBS]), "{learner}: give a Box"),
        (Text(5), "{learner}: give a Box"),
        (MultiDiscrete([2, 3]), "{learner}: give a Box"),
        (Dict({"a": OBS, "b": Text(5)}), "{learner}: give a Box"),
        (Box(0, 255, (8, 8, 3), np.uint8), "NatureCNN: its convolutions need images of 36 x 36"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_observation_space_without_an_encoder_is_refused(learner, space, what):
    match = "^observation space .* is not supported by " + what.format(learner=learner.__name__)
    with pytest.raises(UsageError, match=match) as caught:
        tiny(learner, space)
    assert "\n" not in str(caught.value)


DISCRETE, ANY = "DQN, DiscreteSAC, SoftQ, ", "A2C, ActorCritic, PPO, REINFORCE, TRPO$"


@pytest.mark.parametrize("learner", [*LEARNERS, SAC])
@pytest.mark.parametrize(
    ("space", "what"),
    [
        (Discrete(3), "a bounded Box .* is needed; .* one of " + DISCRETE + ANY),
        (Discrete(3, start=1), "a bounded Box .* is needed; .* one of " + DISCRETE + ANY),
        (MultiDiscrete([2, 3]), "a bounded Box .* is needed; .* one of " + ANY),
        (MultiBinary(3), "a bounded Box .* is needed; .* one of " + ANY),
        (Dict({"a": ACTION}), "a bounded Box .* is needed; .* one of " + ANY),
        (Box(-np.inf, np.inf, (2,), np.float32), "finite bounds .* are needed in every dimension; .* one of " + ANY),
        (Box(-1.0, 1.0, (2, 2), np.float32), "one dimension is needed"),
        (Box(0, 5, (2,), np.int64), "real numbers are needed"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_action_space_without_a_policy_is_refused_with_the_learners_that_have_one(learner, space, what):
    with pytest.raises(UsageError, match=f"^action space .* is not supported by {learner.__name__}: {what}") as caught:
        tiny(learner, OBS, space)
    assert "\n" not in str(caught.value)


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
    lr = {name: partial(Adam, lr=1e-2) for name in optimizers(learner)}
    network = partial(TINY.func, hidden_sizes=(32,))
    model = learner(data.observation_space, data.action_space, network=network, compile=False, **lr, **settings)
    trainer = make_trainer(validate=True)
    before = trainer.validate(model, data, verbose=False)[0]["val/return_mean"]
    fit(model, data)
    after = trainer.validate(model, data, verbose=False)[0]["val/return_mean"]
    assert before < -0.1
    assert after > -0.01


@pytest.mark.parametrize("learner", LEARNERS)
def test_bf16_autocast_keeps_parameters_targets_and_losses_in_float32(learner):
    data = noise_data(total_env_steps=20)
    model = tiny(learner, data.observation_space, data.action_space)
    seen = []

    class Spy(Callback):
        def on_gradient_step_end(self, trainer, pl_module):
            seen.extend(pl_module.losses.values())
            seen.extend(parameter.grad for o in trainer.optimizers for g in o.param_groups for parameter in g["params"])

    fit(model, data, make_trainer([Spy()], precision="bf16-mixed"))
    assert {tensor.dtype for tensor in [*seen, *model.parameters()]} == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in seen)


@pytest.mark.parametrize("learner", [*LEARNERS, SAC])
def test_all_weights_zero_learn_nothing_from_a_batch_and_twice_the_weights_twice_as_much(learner):
    model, batch = tiny(learner), random_batch()._replace(weight=torch.ones(32))
    losses = []
    for weight in (0.0, 1.0, 2.0):
        torch.manual_seed(0)
        metrics, gradients = model.gradients(batch._replace(weight=torch.full((32,), weight)))
        q = gradients[1 if learner is SAC else 0]
        losses.append((metrics["train/q_loss"].item(), sum(g.abs().sum().item() for g in q)))
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
        assert model.target_q(batch).tolist() == [expected, 1.0]
