"""The same weights, the same minibatch and the same noise in Stable-Baselines3 and here: the same losses and gradients.

There each optimizer steps before the next loss is taken, so theirs are kept from stepping: here all gradients of a step
are taken at the same weights.
"""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from toys import BoxActionEnv, fit, noise_data

from rl_lightning import DDPG, MLP, TD3, SACv2, Transition

sb3 = pytest.importorskip("stable_baselines3")
from stable_baselines3.common.type_aliases import ReplayBufferSamples  # noqa: E402

BATCH, GAMMA = 32, 0.9
LOW, HIGH = [-1.0, -1.0], [1.0, 1.0]
NETWORK = partial(MLP, hidden_sizes=(8, 5), activation="tanh")


def minibatch(n_step: bool) -> Transition:
    """Of transitions of one step, or of one to three; all of weight 1, for theirs have none."""
    k = torch.randint(1, 4, (BATCH,)) if n_step else torch.ones(BATCH)
    return Transition(
        obs=torch.randn(BATCH, 3),
        action=torch.rand(BATCH, 2) * 2 - 1,
        reward=torch.randn(BATCH),
        next_obs=torch.randn(BATCH, 3),
        terminated=torch.rand(BATCH) < 0.3,
        discount=GAMMA**k,
        weight=torch.ones(BATCH),
    )


def peer(algorithm, batch: Transition, n_step: bool, **settings):
    """A model of SB3 whose replay buffer gives that minibatch and whose optimizers keep the gradients and stay put."""
    env = BoxActionEnv(LOW, HIGH)
    model = algorithm(
        "MlpPolicy",
        env,
        gamma=GAMMA,
        seed=4,
        device="cpu",
        policy_kwargs={"net_arch": [8, 5], "activation_fn": torch.nn.Tanh},
        **settings,
    )
    model._setup_learn(1)
    samples = ReplayBufferSamples(
        batch.obs,
        batch.action,
        batch.next_obs,
        batch.terminated.float().unsqueeze(-1),
        batch.reward.unsqueeze(-1),
        batch.discount.unsqueeze(-1) if n_step else None,
    )
    model.replay_buffer = SimpleNamespace(sample=lambda batch_size, env: samples)
    with torch.no_grad():  # targets that are not copies
        for network in (model.critic_target, getattr(model, "actor_target", None)):
            for parameter in network.parameters() if network else ():
                parameter += 0.3 * torch.randn_like(parameter)
    model.kept = {}
    optimizers = {"critic": model.critic.optimizer, "actor": model.actor.optimizer}
    if getattr(model, "ent_coef_optimizer", None):
        optimizers["ent_coef"] = model.ent_coef_optimizer
    for name, optimizer in optimizers.items():

        def keep(name=name, optimizer=optimizer):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            model.kept[name] = {id(parameter): parameter.grad.clone() for parameter in parameters}

        optimizer.step = keep
    return model


def linears(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p for layer in module.modules() if isinstance(layer, torch.nn.Linear) for p in (layer.weight, layer.bias)]


@torch.no_grad()
def copy_weights(source: list[torch.Tensor], target: list[torch.Tensor]) -> None:
    for theirs, own in zip(source, target, strict=True):
        own.copy_(theirs)


def gaussian(actor, tensors=lambda parameter: parameter) -> list[torch.Tensor]:
    """SB3's squashed Gaussian has two last layers; ours one, with twice the outputs."""
    hidden, mean, log_std = linears(actor.latent_pi), linears(actor.mu), linears(actor.log_std)
    last = [torch.cat([tensors(a), tensors(b)]) for a, b in zip(mean, log_std, strict=True)]
    return [*(tensors(parameter) for parameter in hidden), *last]


def ours(algorithm, theirs, **settings):
    env = BoxActionEnv(LOW, HIGH)
    model = algorithm(env.observation_space, env.action_space, network=NETWORK, compile=False, **settings)
    critics = [critic for name in ("qf0", "qf1") if (critic := getattr(theirs.critic, name, None))]
    target_critics = [critic for name in ("qf0", "qf1") if (critic := getattr(theirs.critic_target, name, None))]
    for source, target in ((critics, model.q), (target_critics, model.target_q)):
        copy_weights([parameter for critic in source for parameter in linears(critic)], linears(target))
    if algorithm is SACv2:
        copy_weights(gaussian(theirs.actor), linears(model.policy))
    else:
        copy_weights(linears(theirs.actor.mu), linears(model.policy))
        copy_weights(linears(theirs.actor_target.mu), linears(model.target_policy))
    return model


def critic_gradients(theirs) -> list[torch.Tensor]:
    critics = [critic for name in ("qf0", "qf1") if (critic := getattr(theirs.critic, name, None))]
    return [theirs.kept["critic"][id(parameter)] for critic in critics for parameter in linears(critic)]


def assert_same(own: tuple[torch.Tensor, ...], theirs: list[torch.Tensor], factor: float = 1.0) -> None:
    for one, other in zip(own, theirs, strict=True):
        assert one.abs().max() > 1e-4
        torch.testing.assert_close(factor * one, other, rtol=1e-4, atol=1e-6)


def logged(theirs, name: str) -> float:
    return theirs.logger.name_to_value[f"train/{name}"]


def approx(value: float):
    return pytest.approx(value, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("n_step", [False, True])
def test_ddpg_has_its_losses_and_gradients(n_step):
    batch = minibatch(n_step)
    theirs = peer(sb3.DDPG, batch, n_step)
    model = ours(DDPG, theirs)
    found = model.gradients(batch)
    theirs.train(gradient_steps=1)
    # theirs is the mean squared error, ours half of it
    assert 2 * found.metrics["train/q_loss"].item() == approx(logged(theirs, "critic_loss"))
    assert found.metrics["train/policy_loss"].item() == approx(logged(theirs, "actor_loss"))
    assert_same(found.of["q"], critic_gradients(theirs), factor=2)
    of_policy = [theirs.kept["actor"][id(parameter)] for parameter in linears(theirs.actor.mu)]
    assert_same(found.of["policy"], of_policy)


@pytest.mark.parametrize("n_step", [False, True])
@pytest.mark.parametrize(("noise", "clip"), [(0.2, 0.5), (0.7, 0.3)])  # seldom clipped, and mostly
def test_td3_has_its_losses_and_gradients(n_step, noise, clip):
    batch = minibatch(n_step)
    theirs = peer(sb3.TD3, batch, n_step, target_policy_noise=noise, target_noise_clip=clip, policy_delay=1)
    model = ours(TD3, theirs, target_policy_noise=noise, target_noise_clip=clip)
    torch.manual_seed(5)
    found = model.gradients(batch, True)
    torch.manual_seed(5)
    theirs.train(gradient_steps=1)
    # theirs is the sum of both mean squared errors, ours half of it
    assert 2 * found.metrics["train/q_loss"].item() == approx(logged(theirs, "critic_loss"))
    assert found.metrics["train/policy_loss"].item() == approx(logged(theirs, "actor_loss"))
    assert_same(found.of["q"], critic_gradients(theirs), factor=2)
    of_policy = [theirs.kept["actor"][id(parameter)] for parameter in linears(theirs.actor.mu)]
    assert_same(found.of["policy"], of_policy)


@pytest.mark.parametrize("policy_delay", [1, 2, 3])
def test_td3_steps_its_policy_when_theirs_steps(policy_delay):
    batch = minibatch(False)
    theirs = peer(sb3.TD3, batch, False, policy_delay=policy_delay)
    their_steps = []
    for _ in range(7):
        theirs.kept.clear()
        theirs.train(gradient_steps=1)
        their_steps.append("actor" in theirs.kept)
    data = noise_data(learning_starts=12, total_env_steps=12 + 7)
    model = TD3(data.observation_space, data.action_space, policy_delay=policy_delay, network=NETWORK, compile=False)
    own_steps, gradients = [], model.gradients
    model.gradients = lambda batch, due: own_steps.append(due) or gradients(batch, due)
    fit(model, data)
    assert own_steps == their_steps
    assert sum(own_steps) == 7 // policy_delay


@pytest.mark.parametrize("n_step", [False, True])
@pytest.mark.parametrize("ent_coef", ["auto", "auto_0.3", 0.3])
def test_sac_has_its_losses_and_gradients(n_step, ent_coef, monkeypatch):
    batch = minibatch(n_step)
    theirs = peer(sb3.SAC, batch, n_step, ent_coef=ent_coef, target_entropy="auto" if ent_coef == "auto" else -0.4)
    theirs.actor.action_dist.epsilon = 0.0  # in log(1 − a² + ε); our form needs none
    model = ours(
        SACv2,
        theirs,
        ent_coef=1.0 if ent_coef == "auto" else 0.3,
        **({"ent_coef_optimizer": None} if ent_coef == 0.3 else {}),
        **({} if ent_coef == "auto" else {"target_entropy": -0.4}),
    )
    # the same noise for s and s', drawn in another order
    now, after = torch.randn(BATCH, 2), torch.randn(BATCH, 2)
    draws, their_draws = [after, now], [now, after]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn_like", lambda like: draws.pop(0))
        found = model.gradients(batch)
    with monkeypatch.context() as patch:
        patch.setattr(torch.distributions.normal, "_standard_normal", lambda *args, **kwargs: their_draws.pop(0))
        theirs.train(gradient_steps=1)
    assert draws == their_draws == []

    # both have the half
    assert found.metrics["train/q_loss"].item() == approx(logged(theirs, "critic_loss"))
    assert found.metrics["train/policy_loss"].item() == approx(logged(theirs, "actor_loss"))
    assert found.metrics["train/ent_coef"].item() == approx(logged(theirs, "ent_coef"))
    assert_same(found.of["q"], critic_gradients(theirs))
    of_policy = gaussian(theirs.actor, lambda parameter: theirs.kept["actor"][id(parameter)])
    assert_same(found.of["policy"], of_policy)
    assert ("ent_coef" in found.of) == (ent_coef != 0.3)
    if "ent_coef" in found.of:
        assert_same((found.of["ent_coef"][0].unsqueeze(0),), [theirs.kept["ent_coef"][id(theirs.log_ent_coef)]])
