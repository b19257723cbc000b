"""Estimators on the bridge: what they expect, what they take from the critic, and the ends of interpolation."""

from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn
from torch.optim import SGD
from toys import SpacesEnv, fit, make_trainer

from rl_lightning import (
    A2C,
    MLP,
    PPO,
    TRPO,
    ActorCritic,
    FactorizedBaseline,
    InterpolatedPolicyGradient,
    LikelihoodRatio,
    OffPolicyCritic,
    PolicyAndValue,
    QProp,
    Rollout,
    RolloutDataModule,
    RolloutReplayDataModule,
    SteinControlVariate,
    Transition,
    UsageError,
    estimators,
)
from rl_lightning.algorithms.bridge import Control, Estimator, Weighed
from rl_lightning.algorithms.policy_gradient import PolicyGradient, in_standard_units, over_dimensions

OBS, ACTION = Box(-np.inf, np.inf, (3,), np.float32), Box(-1.0, 1.0, (2,), np.float32)
SMOOTH = partial(MLP, hidden_sizes=(8,), activation="tanh")
CRITIC = partial(OffPolicyCritic, network=SMOOTH)
STEPS = {A2C: {}, PPO: {"n_epochs": 2, "batch_size": 10}, TRPO: {"n_critic_updates": 2, "batch_size": 10}}
each_step = pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
UNBIASED = {
    "likelihood_ratio": LikelihoodRatio,
    "q_prop": partial(QProp, "standard"),
    "stein": SteinControlVariate,
    "factorized_at_the_mean": FactorizedBaseline,
    "factorized_by_samples": partial(FactorizedBaseline, 3),
    "interpolated_0": partial(InterpolatedPolicyGradient, 0.0, True, "rollout"),
}
ASKING = {
    **{name: one for name, one in UNBIASED.items() if name != "likelihood_ratio"},
    "conservative": QProp,
    "aggressive": partial(QProp, "aggressive"),
    "interpolated": InterpolatedPolicyGradient,
    "deterministic": partial(InterpolatedPolicyGradient, 1.0),
}


class Quadratic(nn.Module):
    """q = s_1 + 2 a_1 − a_2 − a_1² + ½ a_1 a_2 + 0.3 a_2³: a critic that is neither right nor linear."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        s, a, b = x[:, 0], x[:, -2], x[:, -1]
        return (self.scale * (s + 2.0 * a - b - a**2 + 0.5 * a * b + 0.3 * b**3)).unsqueeze(-1)


class Linear(nn.Linear):
    """A body without hidden layers."""


def learner(step=A2C, estimator=LikelihoodRatio, body=Quadratic, **settings):
    critic = partial(OffPolicyCritic, network=body) if estimator().needs_critic else None
    settings = {"compile": False, "network": SMOOTH, **STEPS[step], **settings}
    return step(OBS, ACTION, estimator=estimator, critic=critic, **settings)


def advantage_of(action: Tensor) -> Tensor:
    """Â(s, a) = 3 a_1 + a_2 + a_1 a_2 − 2 a_2², [B]."""
    a, b = action.unbind(-1)
    return 3.0 * a + b + a * b - 2.0 * b**2


def exact_gradient(mean: Tensor, log_std: Tensor) -> Tensor:
    """∂E[Â]/∂(μ, log σ): by μ (3 + μ_2, 1 + μ_1 − 4 μ_2), by log σ (0, −4 σ_2²)."""
    a, b = mean.tolist()
    return torch.tensor([3.0 + b, 1.0 + a - 4.0 * b, 0.0, -4.0 * (2.0 * log_std[1]).exp().item()])


def policy_with(
    mean: tuple[float, float], log_std: tuple[float, float], estimator
) -> tuple[PolicyGradient, PolicyAndValue]:
    """A policy whose mean is a bias alone, which the gradient can be read from."""
    model = learner(A2C, estimator, network=Linear)
    head = model.networks.policy[1]
    with torch.no_grad():
        head.body.weight.zero_()
        head.body.bias.copy_(torch.tensor(mean))
        head.log_std.copy_(torch.tensor(log_std))
    return model.policy_gradient, model.networks


def gradients_of_chunks(estimator, change=lambda weighed: weighed, chunks=200, size=1_000) -> tuple[Tensor, Tensor]:
    """Policy gradients by (μ, log σ) of independent batches [chunks, 4], and the exact one [4]."""
    torch.manual_seed(0)
    policy_gradient, networks = policy_with((0.4, -0.3), (-0.4, 0.1), estimator)
    head = networks.policy[1]
    obs = torch.full((size, 3), 0.5)
    found = []
    for _ in range(chunks):
        pi = networks.distribution(obs)
        action = pi.sample()
        weighed = policy_gradient.weigh(networks, advantage_of(action), pi, obs, action, obs)
        surrogate = policy_gradient.surrogate(networks, pi, obs, action, change(weighed))
        found.append(torch.cat(torch.autograd.grad(surrogate, [head.body.bias, head.log_std])))
    return torch.stack(found), exact_gradient(head.body.bias.detach(), head.log_std.detach())


def deviations(found: Tensor, exact: Tensor) -> Tensor:
    """How many standard errors the mean of batches [chunks, 4] is from what it should be, [4]."""
    return (found.mean(0) - exact).abs() / (found.std(0) / len(found) ** 0.5)


# What they expect


@pytest.mark.parametrize("name", UNBIASED)
def test_an_estimator_expects_the_exact_gradient_though_its_critic_is_wrong(name):
    assert (deviations(*gradients_of_chunks(UNBIASED[name])) < 4.0).all()


@pytest.mark.parametrize("name", ["q_prop", "stein", "interpolated_0"])
@pytest.mark.parametrize("factor", [0.0, 0.5, -1.0])
def test_a_correction_that_is_missing_halved_or_turned_is_noticed(name, factor):
    def wrong(weighed: Weighed) -> Weighed:
        control: Control = {**weighed.control, "coefficient": factor * weighed.control["coefficient"]}
        return weighed._replace(control=control)

    assert deviations(*gradients_of_chunks(UNBIASED[name], wrong)).max() > 8.0


def test_a_baseline_that_sees_its_own_dimension_is_noticed():
    assert (
        deviations(*gradients_of_chunks(FactorizedBaseline, lambda w: w._replace(advantage=w.advantage.flip(-1)))).max()
        > 8.0
    )


@pytest.mark.parametrize("eta", ["conservative", "aggressive"])
def test_an_eta_that_looks_at_the_action_is_biased(eta):
    assert deviations(*gradients_of_chunks(partial(QProp, eta))).max() > 8.0


def test_interpolation_is_between_the_exact_gradient_and_the_critics_at_the_mean():
    nu = 0.3
    found, exact = gradients_of_chunks(partial(InterpolatedPolicyGradient, nu, False, "rollout"))
    a, b = 0.4, -0.3
    slope = torch.tensor([2.0 - 2.0 * a + 0.5 * b, -1.0 + 0.5 * a + 0.9 * b**2, 0.0, 0.0])  # ∇_a Q at μ
    assert (deviations(found, (1.0 - nu) * exact + nu * slope) < 4.0).all()
    assert deviations(found, exact).max() > 8.0


def test_a_critic_that_is_right_takes_the_variance_away():
    def right(in_features: int, out_features: int) -> nn.Module:
        class Right(Quadratic):
            def forward(self, x: Tensor) -> Tensor:
                return (self.scale * advantage_of(x[:, -2:])).unsqueeze(-1)

        return Right(in_features, out_features)

    def spread(estimator, body) -> Tensor:
        torch.manual_seed(0)
        model = learner(A2C, estimator, body)
        obs = torch.randn(500, 3)
        pi = model.networks.distribution(obs)
        action = pi.sample()
        weighed = model.policy_gradient.weigh(model.networks, advantage_of(action), pi, obs, action, obs)
        return model.policy_gradient.variance(model.networks, obs, action, weighed)

    plain = spread(LikelihoodRatio, Quadratic)
    assert spread(SteinControlVariate, right) < 0.5 * plain
    assert spread(FactorizedBaseline, right) < 0.9 * plain


# Weights and controls, by hand


def weighed_by_hand(estimator) -> tuple[Weighed, Tensor]:
    """At s = (0.5, 0.5, 0.5), μ = (0.4, −0.3), σ = (e^−0.4, e^0.1), a = (1, 2), Â = 5."""
    policy_gradient, networks = policy_with((0.4, -0.3), (-0.4, 0.1), estimator)
    obs, action = torch.full((1, 3), 0.5), torch.tensor([[1.0, 2.0]])
    pi = networks.distribution(obs)
    return policy_gradient.weigh(networks, torch.tensor([5.0]), pi, obs, action, obs + 1.0), action


def q(a: float, b: float) -> float:
    return 0.5 + 2.0 * a - b - a**2 + 0.5 * a * b + 0.3 * b**3


LINEAR = (2.0 - 0.8 - 0.15) * 0.6 + (-1.0 + 0.2 + 0.081) * 2.3  # ∇_a Q(s, μ) · (a − μ) = −1.0237: another sign than Â


@pytest.mark.parametrize(("eta", "coefficient"), [("standard", 1.0), ("conservative", 0.0), ("aggressive", -1.0)])
def test_q_prop_takes_the_linear_part_of_the_critic(eta, coefficient):
    weighed, _ = weighed_by_hand(partial(QProp, eta))
    assert weighed.advantage.tolist() == pytest.approx([5.0 - coefficient * LINEAR])
    assert weighed.control["coefficient"].tolist() == [coefficient]
    assert weighed.control["noise"].tolist() == [[0.0, 0.0]]
    assert "obs" not in weighed.control


def test_steins_control_variate_is_the_critic_at_the_action_that_was_taken():
    weighed, _ = weighed_by_hand(SteinControlVariate)
    assert weighed.advantage.tolist() == pytest.approx([5.0 - q(1.0, 2.0) + q(0.4, -0.3)])
    noise = [0.6 * np.exp(0.4), 2.3 * np.exp(-0.1)]
    assert weighed.control["noise"].tolist() == [pytest.approx(noise)]
    assert weighed.control["coefficient"].tolist() == [1.0]


def test_a_factorized_baseline_sees_the_other_dimension():
    weighed, _ = weighed_by_hand(FactorizedBaseline)
    middle = q(0.4, -0.3)
    assert weighed.advantage.tolist() == [pytest.approx([5.0 - q(0.4, 2.0) + middle, 5.0 - q(1.0, -0.3) + middle])]
    assert weighed.control == {}


@pytest.mark.parametrize(("variate", "coefficient"), [(False, 0.25), (True, 1.0)])
def test_interpolation_weighs_both_gradients(variate, coefficient):
    weighed, _ = weighed_by_hand(partial(InterpolatedPolicyGradient, 0.25, variate))
    assert weighed.advantage.tolist() == pytest.approx([0.75 * (5.0 - LINEAR * variate)])
    assert weighed.control["coefficient"].tolist() == [coefficient]
    assert weighed.control["obs"].tolist() == [[1.5, 1.5, 1.5]]  # replay's


def test_standard_units_divide_weights_and_control_alike():
    coefficient = torch.tensor([1.0, 2.0, 3.0])
    weighed = in_standard_units(Weighed(torch.tensor([1.0, 2.0, 6.0]), {"coefficient": coefficient}))
    deviation = 7.0**0.5  # of 1, 2, 6: (4 + 1 + 9) / 2 = 7
    assert weighed.advantage.tolist() == pytest.approx([-2.0 / deviation, -1.0 / deviation, 3.0 / deviation])
    assert weighed.control["coefficient"].tolist() == pytest.approx((coefficient / deviation).tolist())


@pytest.mark.parametrize("weight", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(7,), (7, 2)])
def test_a_control_beside_weights_that_are_all_the_same_stays_in_its_own_units(shape, weight):
    coefficient = torch.arange(7.0)
    weighed = in_standard_units(Weighed(torch.full(shape, weight), {"coefficient": coefficient}))
    assert torch.equal(weighed.advantage, torch.zeros(shape))
    assert torch.equal(weighed.control["coefficient"], coefficient), "of 1e8 nothing else in the loss would be seen"


def test_dimensions_are_summed_where_they_have_terms_of_their_own():
    assert over_dimensions(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist() == [3.0, 7.0]
    assert over_dimensions(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]


# Both ends of interpolation


def run(step, estimator=LikelihoodRatio, replay=None, **settings):
    torch.manual_seed(0)
    replay = estimator().needs_critic if replay is None else replay
    kind = RolloutReplayDataModule if replay else RolloutDataModule
    data = kind("Pendulum-v1", num_envs=2, rollout_steps=10, total_env_steps=60, eval_episodes=1, test_episodes=1)
    critic = CRITIC if estimator().needs_critic else None
    torch.manual_seed(0)
    model = step(
        data.observation_space,
        data.action_space,
        **{"compile": False, "network": SMOOTH, "estimator": estimator, "critic": critic, **STEPS[step], **settings},
    )
    fit(model, data)
    return model


@each_step
def test_interpolation_0_is_the_on_policy_learner_bit_for_bit(step):
    one, other = run(step), run(step, partial(InterpolatedPolicyGradient, 0.0))
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def rollout(size=20) -> Rollout:
    torch.manual_seed(1)
    no = torch.zeros(size, 1, dtype=torch.bool)
    obs = torch.randn(2, size, 1, 3)
    return Rollout(obs[0], torch.randn(size, 1, 2), torch.randn(size, 1), obs[1], no, no)


def deterministic_gradient(model, states: Tensor) -> list[Tensor]:
    """E[∇_a Q_w(s, a)|_{a=μ(s)} ∇_θ μ_θ(s)] by its two factors, for every parameter of the policy that μ depends on."""
    mean = model.networks.distribution(states).mode()
    action = mean.detach().requires_grad_()
    (slope,) = torch.autograd.grad(model.policy_gradient.critic(states, action).mean(), action)
    return list(torch.autograd.grad(mean, list(model.networks.policy[1].body.parameters()), grad_outputs=slope))


@pytest.mark.parametrize("states", ["rollout", "replay"])
@each_step
def test_interpolation_1_is_the_deterministic_policy_gradient(step, states):
    estimator = partial(InterpolatedPolicyGradient, 1.0, False, states)
    model = learner(step, estimator, normalize_advantage=False, **({} if step is TRPO else {"max_grad_norm": None}))
    batch, replayed = rollout(), torch.randn(20, 3)
    expected = deterministic_gradient(model, replayed if states == "replay" else batch.obs.flatten(0, 1))
    if step is A2C:
        found = [-g for g in model.gradients(batch, replayed).of["policy"]]
    elif step is PPO:
        samples = model.with_advantages(batch, replayed)
        found = [-g for g in model.gradients(samples, torch.tensor(0.2)).of["policy"]]
    else:
        samples = model.with_advantages(batch, replayed)
        pi = model.networks.distribution(samples.obs)
        weighed = Weighed(samples.advantage, samples.control)
        surrogate = model.policy_gradient.surrogate(model.networks, pi, samples.obs, samples.action, weighed)
        found = list(torch.autograd.grad(surrogate, list(model.networks.policy.parameters())))
    by_name = dict(zip([name for name, _ in model.networks.policy.named_parameters()], found, strict=True))
    assert by_name.pop("1.log_std").abs().max() == 0.0
    for gradient, right in zip(by_name.values(), expected, strict=True):
        torch.testing.assert_close(gradient, right)


# The steps of the three learners


@pytest.mark.parametrize("name", ASKING)
def test_the_first_gradient_of_ppo_is_that_of_a2c(name):
    plain = {"normalize_advantage": False, "max_grad_norm": None, "gae_lambda": 0.9}
    torch.manual_seed(0)
    a2c = learner(A2C, ASKING[name], **plain)
    ppo = learner(PPO, ASKING[name], **plain)
    ppo.load_state_dict(a2c.state_dict())
    batch, replayed = rollout(), torch.randn(20, 3)
    torch.manual_seed(2)  # baselines may be sampled
    expected = a2c.gradients(batch, replayed).of["policy"]
    torch.manual_seed(2)
    found = ppo.gradients(ppo.with_advantages(batch, replayed), torch.tensor(0.2)).of["policy"]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ASKING)
def test_trpo_steps_up_the_same_gradient(name, monkeypatch):
    torch.manual_seed(0)
    trpo, a2c = learner(TRPO, ASKING[name]), learner(A2C, ASKING[name], max_grad_norm=None, gae_lambda=0.95)
    a2c.load_state_dict(trpo.state_dict())
    a2c.normalize_advantage = True
    batch, replayed = rollout(), torch.randn(20, 3)
    torch.manual_seed(2)
    expected = -torch.cat([g.flatten() for g in a2c.gradients(batch, replayed).of["policy"]])
    taken = []
    monkeypatch.setattr(
        "rl_lightning.algorithms.trpo.conjugate_gradient", lambda product, b, steps: taken.append(b) or 0.0 * b
    )
    torch.manual_seed(2)
    trpo.step_policy(trpo.with_advantages(batch, replayed))
    torch.testing.assert_close(taken[0], expected)


@pytest.mark.parametrize("name", ASKING)
@each_step
def test_every_step_learns_with_every_estimator(step, name):
    model = run(step, ASKING[name], gradient_variance=True)
    assert all(metric.isfinite().all() for metric in model.metrics.values())
    assert {"train/q_loss", "train/q_mean", "train/gradient_variance", "train/gradient_variance_ratio"} <= set(
        model.metrics
    )


@pytest.mark.parametrize("estimator", [QProp, FactorizedBaseline])
def test_compiled_gradients_are_the_eager_ones(estimator):
    torch.manual_seed(0)
    model = learner(A2C, estimator, SMOOTH)
    other = learner(A2C, estimator, SMOOTH, compile=True)
    other.load_state_dict(model.state_dict())
    expected, found = model.compute_gradients(rollout(), None), other.compute_gradients(rollout(), None)
    torch.testing.assert_close(found.of, expected.of, rtol=1e-4, atol=1e-5)


def functions(model, batch: Rollout, replayed: Tensor) -> dict[str, Tensor]:
    """The policy's gradient by `rl_lightning.estimators`, at the learner's own advantages."""
    obs, action = batch.obs.flatten(0, 1), batch.action.flatten(0, 1)
    pi, value = model.networks(obs)
    critic = model.policy_gradient.critic
    samples = estimators.Batch(obs, action, model.networks.advantages(batch, value, model.gamma, model.gae_lambda))
    middle = critic(obs, pi.mode()).detach()  # [B]
    estimator = model.policy_gradient.estimator
    if isinstance(estimator, QProp):
        return estimators.q_prop(model.networks, samples, critic=critic, eta=estimator.eta).gradient
    if isinstance(estimator, SteinControlVariate):
        return estimators.stein(model.networks, samples, critic=critic, baseline=-middle).gradient
    if isinstance(estimator, FactorizedBaseline):
        signal = samples._replace(signal=samples.signal + middle)
        return estimators.factorized(model.networks, signal, critic=critic, samples=estimator.samples).gradient
    nu, variate = estimator.interpolation, estimator.control_variate
    return estimators.interpolated(model.networks, samples, critic=critic, nu=nu, control_variate=variate).gradient


@pytest.mark.parametrize("name", [name for name in ASKING if name != "factorized_by_samples"])
def test_a_learner_steps_along_the_estimators_own_function(name):
    torch.manual_seed(0)
    model = learner(A2C, ASKING[name], SMOOTH, max_grad_norm=None, gae_lambda=0.9)
    batch = rollout()
    obs = batch.obs.flatten(0, 1)  # replay's states are the rollout's here
    expected = functions(model, batch, obs)
    found = model.gradients(batch, obs).of["policy"]
    for (parameter, _), gradient in zip(model.networks.policy.named_parameters(), found, strict=True):
        torch.testing.assert_close(-gradient, expected[f"policy.{parameter}"], rtol=1e-4, atol=1e-5)


# The critic


def transition(size=4) -> Transition:
    obs, next_obs = torch.randn(2, size, 3)
    return Transition(
        obs,
        torch.randn(size, 2),
        torch.arange(float(size)),
        next_obs,
        torch.arange(size) % 2 == 0,
        torch.full((size,), 0.5),
        torch.ones(size),
    )


def test_the_critics_target_bootstraps_from_its_target_at_an_action_of_the_present_policy():
    torch.manual_seed(0)
    model = learner(A2C, QProp)
    critic, batch = model.policy_gradient.critic, transition()
    torch.manual_seed(3)
    action = model.networks.distribution(batch.next_obs).sample()
    with torch.no_grad():
        critic.target_q.body.scale.fill_(3.0)
        bootstrapped = 3.0 * critic(batch.next_obs, action)
        target = batch.reward + 0.5 * bootstrapped * torch.tensor([0.0, 1.0, 0.0, 1.0])
        error = critic(batch.obs, batch.action) - target
    torch.manual_seed(3)
    found = critic.gradients(model.networks, batch)
    assert found.metrics["train/q_loss"].item() == pytest.approx(0.5 * error.square().mean().item())
    slope = (error * critic(batch.obs, batch.action).detach()).mean()  # Q is linear in its only parameter, which is 1
    assert found.of["q"][0].item() == pytest.approx(slope.item(), rel=1e-5)


def test_the_target_follows_the_critics_steps_and_no_others():
    moved = []

    class Watching(OffPolicyCritic):
        def learn(self, learner, networks, batch):
            before = learner.gradient_steps
            super().learn(learner, networks, batch)
            moved.append(learner.gradient_steps - before)

    torch.manual_seed(0)
    data = RolloutReplayDataModule(
        "Pendulum-v1", num_envs=2, rollout_steps=10, total_env_steps=60, replay_ratio=0.25, replay_batch_size=8
    )
    critic = partial(Watching, network=SMOOTH, target_update_interval=7, tau=1.0)
    model = PPO(
        *(data.observation_space, data.action_space), n_epochs=3, batch_size=5, network=SMOOTH, estimator=QProp,
        critic=critic, compile=False,
    )  # fmt: skip
    fit(model, data)
    assert moved == [5, 5, 5]  # a quarter of 20 environment steps
    assert model.gradient_steps == 3 * (5 + 3 * 4)
    assert model.polyak_averaging.gradient_steps == 15


def test_each_optimizer_moves_its_own_network():
    def frozen(params):
        return SGD(params, lr=0.0)

    def parts(model):
        networks = {"policy": model.networks.policy, "value": model.networks.value, "q": model.policy_gradient.critic.q}
        return {name: [p.clone() for p in network.parameters()] for name, network in networks.items()}

    for name in ("policy", "value", "q"):
        rates = {f"{other}_optimizer": frozen for other in ("policy", "value") if other != name}
        critic = CRITIC if name == "q" else partial(CRITIC, q_optimizer=frozen)
        before = parts(
            run(
                PPO,
                QProp,
                critic=partial(CRITIC, q_optimizer=frozen),
                **dict.fromkeys(("policy_optimizer", "value_optimizer"), frozen),
            )
        )
        after = parts(run(PPO, QProp, critic=critic, **rates))
        moved = {
            part
            for part in before
            if any(not torch.equal(a, b) for a, b in zip(before[part], after[part], strict=True))
        }
        assert moved == {name}


@each_step
def test_the_critic_learns_in_the_units_that_it_is_asked_in_from_the_first_rollout_on(step, monkeypatch):
    taken = []

    def noted(function):
        def call(self, *args):
            networks = next(arg for arg in args if isinstance(arg, PolicyAndValue))
            moments = networks.normalizer.moments[0], networks.return_normalizer.moments
            taken.append((function.__name__, [one.var.mean().item() for one in moments]))
            return function(self, *args)

        return call

    monkeypatch.setattr(OffPolicyCritic, "learn", noted(OffPolicyCritic.learn))
    monkeypatch.setattr(PolicyGradient, "weigh", noted(PolicyGradient.weigh))
    run(step, QProp, normalize_observations=True, normalize_returns=True)
    assert [name for name, _ in taken] == ["learn", "weigh"] * 3
    for (_, learned_in), (_, asked_in) in zip(taken[::2], taken[1::2], strict=True):
        assert learned_in == asked_in


# Whatever comes


@pytest.mark.parametrize("obs", SpacesEnv.OBSERVATIONS)
def test_critic_and_variance_take_every_kind_of_observation(obs):
    torch.manual_seed(0)
    env_kwargs = {"obs": obs, "action": "box"}
    data = RolloutReplayDataModule("toys:Spaces-v0", env_kwargs, rollout_steps=6, total_env_steps=12)
    spaces = data.observation_space, data.action_space
    estimator = partial(InterpolatedPolicyGradient, 0.5, True, "replay")
    settings = {"batch_size": 3, "n_epochs": 1, "network": SMOOTH, "compile": False}
    model = PPO(*spaces, **settings, estimator=estimator, critic=CRITIC, gradient_variance=True)
    fit(model, data)
    assert model.gradient_steps > 0
    assert all(metric.isfinite() for metric in model.metrics.values())


def test_bf16_keeps_the_critic_in_float32():
    torch.manual_seed(0)
    data = RolloutReplayDataModule("Pendulum-v1", rollout_steps=10, total_env_steps=20)
    spaces = data.observation_space, data.action_space
    model = A2C(*spaces, network=SMOOTH, estimator=QProp, critic=CRITIC, gradient_variance=True, compile=False)
    fit(model, data, make_trainer(precision="bf16-mixed"))
    assert {tensor.dtype for tensor in [*model.parameters(), *model.metrics.values()]} == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in model.metrics.values())


class Halved(Estimator):
    """Somebody's own: half of the critic's advantage is taken away, and nothing comes back."""

    def weigh(self, advantage, pi, obs, action, critic, replayed):
        return Weighed(advantage - 0.5 * (critic(obs, action) - critic(obs, pi.mode())), {})


class Doubled(Estimator):
    """Somebody's own, without a critic."""

    needs_critic = False

    def weigh(self, advantage, pi, obs, action, critic, replayed):
        return Weighed(2.0 * advantage, {})


def test_an_estimator_of_the_users_own_without_a_critic_is_asked_too():
    torch.manual_seed(0)
    plain, doubled = learner(A2C, max_grad_norm=None), learner(A2C, Doubled, max_grad_norm=None)
    doubled.load_state_dict(plain.state_dict())
    for one, other in zip(
        doubled.gradients(rollout()).of["policy"], plain.gradients(rollout()).of["policy"], strict=True
    ):
        torch.testing.assert_close(one, 2.0 * other)


class Foreign(nn.Sequential):
    """Somebody's own body, whose last layer is not called by any name of ours."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(nn.Linear(in_features, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, out_features))


@each_step
def test_an_estimator_and_a_critic_of_the_users_own_work_with_every_step(step):
    critic = partial(OffPolicyCritic, network=Foreign)
    model = run(step, Halved, critic=critic, network=Foreign, gradient_variance=True)
    assert all(metric.isfinite().all() for metric in model.metrics.values())


# Variance


def test_the_variance_is_the_trace_of_the_covariance_over_time_steps():
    torch.manual_seed(0)
    model = learner(A2C, SteinControlVariate, SMOOTH)
    batch = rollout(6)
    obs, action = batch.obs.flatten(0, 1), batch.action.flatten(0, 1)
    pi = model.networks.distribution(obs)
    weighed = model.policy_gradient.weigh(model.networks, advantage_of(action), pi, obs, action, None)
    each = []
    for t in range(6):
        one = slice(t, t + 1)
        pi = model.networks.distribution(obs[one])
        control = {name: value[one] for name, value in weighed.control.items()}
        part = Weighed(weighed.advantage[one], control)
        surrogate = model.policy_gradient.surrogate(model.networks, pi, obs[one], action[one], part)
        found = torch.autograd.grad(surrogate, list(model.networks.policy.parameters()))
        each.append(torch.cat([g.flatten() for g in found]))
    expected = torch.stack(each).var(0).sum()
    found = model.policy_gradient.variance(model.networks, obs, action, weighed)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_variance_of_a_long_rollout_is_measured_at_even_distances():
    torch.manual_seed(0)
    model = learner(A2C, QProp, SMOOTH)
    obs, action = torch.randn(1_100, 3), torch.randn(1_100, 2)
    weighed = model.policy_gradient.weigh(
        model.networks, advantage_of(action), model.networks.distribution(obs), obs, action, None
    )
    every_third = Weighed(weighed.advantage[::3], {name: x[::3] for name, x in weighed.control.items()})
    torch.testing.assert_close(
        model.policy_gradient.variance(model.networks, obs, action, weighed),
        model.policy_gradient.variance(model.networks, obs[::3], action[::3], every_third),
    )


def test_the_variance_ratio_is_to_the_likelihood_ratio_on_the_same_rollout():
    torch.manual_seed(0)
    model = learner(A2C, QProp, SMOOTH)
    plain = learner(A2C)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k in plain.state_dict()})
    metrics, own = model.variance_metrics(rollout(), None), plain.variance_metrics(rollout(), None)
    assert own.keys() == {"train/gradient_variance"}
    ratio = metrics["train/gradient_variance"] / own["train/gradient_variance"]
    assert metrics["train/gradient_variance_ratio"].item() == pytest.approx(ratio.item(), rel=1e-4)


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": QProp}, "critic=None is not allowed: QProp asks one; give rl_lightning.OffPolicyCritic"),
        ({"critic": CRITIC}, "critic=.* is not allowed: LikelihoodRatio asks none, so it would learn for nothing"),
        (
            {"estimator": partial(InterpolatedPolicyGradient, 0.0), "critic": CRITIC},
            "critic=.* is not allowed: InterpolatedPolicyGradient asks none",
        ),
    ],
)
def test_a_critic_is_there_exactly_where_it_is_asked(settings, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        A2C(OBS, ACTION, **settings)


@pytest.mark.parametrize(
    ("estimator", "setting"),
    [
        (partial(QProp, "bold"), "estimator.eta='bold'"),
        (partial(FactorizedBaseline, -1), "estimator.samples=-1"),
        (partial(InterpolatedPolicyGradient, 1.1), "estimator.interpolation=1.1"),
        (partial(InterpolatedPolicyGradient, float("nan")), "estimator.interpolation=nan"),
        (partial(InterpolatedPolicyGradient, 0.5, False, "all"), "estimator.states='all'"),
    ],
)
def test_a_setting_out_of_range_is_refused(estimator, setting):
    with pytest.raises(UsageError, match=f"^{setting} is not allowed"):
        A2C(OBS, ACTION, estimator=estimator, critic=CRITIC)


def test_discrete_actions_are_refused_where_a_critic_is_differentiated():
    with pytest.raises(UsageError, match=r"^action space Discrete\(2\) is not supported by QProp"):
        A2C(OBS, Discrete(2), estimator=QProp, critic=CRITIC)


@each_step
@pytest.mark.parametrize("replay", [False, True])
def test_replay_is_kept_exactly_where_a_critic_learns_from_it(step, replay):
    estimator = LikelihoodRatio if replay else QProp
    right = "RolloutDataModule" if replay else "RolloutReplayDataModule"
    with pytest.raises(UsageError, match=f"not allowed with {step.__name__}: .*; give a {right} as data"):
        run(step, estimator, replay=replay)


@each_step
def test_the_variance_of_rollouts_of_one_time_step_is_refused(step):
    one, ten = (RolloutDataModule("Pendulum-v1", rollout_steps=1, num_envs=n, total_env_steps=20) for n in (1, 10))
    spaces, settings = (one.observation_space, one.action_space), STEPS[step]
    model = step(*spaces, **settings, network=SMOOTH, gradient_variance=True, compile=False)
    with pytest.raises(UsageError, match=r"^gradient_variance=True is not allowed: rollouts of one time step have"):
        fit(model, one)
    assert model.gradient_steps == 0
    fit(model, ten)
    assert model.metrics["train/gradient_variance"].isfinite()


def test_learners_that_take_no_critic_take_no_replay_either():
    data = RolloutReplayDataModule("CartPole-v1", rollout_steps=1, total_env_steps=4, replay_batch_size=1)
    model = ActorCritic(data.observation_space, data.action_space, network=SMOOTH, compile=False)
    with pytest.raises(UsageError, match=r"^datamodule=RolloutReplayDataModule is not allowed with ActorCritic"):
        fit(model, data)
