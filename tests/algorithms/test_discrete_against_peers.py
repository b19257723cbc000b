"""The same weights and the same batches in other libraries and here: the same losses, gradients and steps."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn
from torch.optim import Adam

from rl_lightning import DQN, MLP, DiscreteSAC, Transition

GAMMA, SIZE, FEATURES, ACTIONS = 0.9, 32, 4, 3
OBS, ACTION = Box(-10.0, 10.0, (FEATURES,), np.float32), Discrete(ACTIONS)
NETWORK = partial(MLP, hidden_sizes=(8,))


def random_batch(seed=0) -> Transition:
    """Of transitions that span one to three steps."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randint(1, 4, (SIZE,), generator=generator)
    return Transition(
        obs=torch.randn(SIZE, FEATURES, generator=generator),
        action=torch.randint(0, ACTIONS, (SIZE,), generator=generator),
        reward=2 * torch.randn(SIZE, generator=generator),
        next_obs=torch.randn(SIZE, FEATURES, generator=generator),
        terminated=torch.rand(SIZE, generator=generator) < 0.3,
        discount=GAMMA**steps,
        weight=torch.ones(SIZE),
    )


@torch.no_grad()
def copy_weights(sources, targets):
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


def assert_close(ours, theirs):
    for own, other in zip(ours, theirs, strict=True):
        assert own.abs().max() > 0
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)  # float32: sums in another order


# Stable-Baselines3: DQN


class NoEnv(gym.Env):
    """Only its spaces are needed."""

    observation_space, action_space = OBS, ACTION

    def reset(self, *, seed=None, options=None):
        return np.zeros(FEATURES, np.float32), {}

    def step(self, action):
        return np.zeros(FEATURES, np.float32), 0.0, False, False, {}


def sb3_dqn(batches, **settings):
    """Their learner, whose replay buffer hands out `batches`, and ours with its weights."""
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    theirs = sb3.DQN(
        "MlpPolicy", NoEnv(), learning_rate=1e-3, gamma=GAMMA, seed=3, device="cpu", buffer_size=10,
        policy_kwargs={"net_arch": [8]}, **settings,
    )  # fmt: skip
    theirs.set_logger(configure(format_strings=[]))
    with torch.no_grad():  # a target of its own
        for parameter in theirs.q_net_target.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    samples = iter(
        ReplayBufferSamples(
            batch.obs,
            batch.action[:, None],
            batch.next_obs,
            batch.terminated.float()[:, None],
            batch.reward[:, None],
            batch.discount[:, None],
        )
        for batch in batches
    )
    theirs.replay_buffer.sample = lambda batch_size, env: next(samples)
    model = DQN(
        OBS, ACTION, GAMMA, loss="huber", network=NETWORK, q_optimizer=partial(Adam, lr=1e-3), compile=False,
        max_grad_norm=settings.get("max_grad_norm"),
    )  # fmt: skip
    copy_weights(theirs.q_net.q_net.parameters(), model.q.parameters())
    copy_weights(theirs.q_net_target.q_net.parameters(), model.target_q.parameters())
    return theirs, model


@pytest.mark.parametrize("max_grad_norm", [1e9, 0.2])
def test_dqn_has_the_loss_and_gradients_of_stable_baselines3(max_grad_norm):
    theirs, model = sb3_dqn([random_batch()], max_grad_norm=max_grad_norm)
    found = model.gradients(random_batch())
    assert 0.2 < (found.td_error > 1).float().mean() < 0.8  # both parts of Huber's loss
    norm = torch.cat([gradient.flatten() for gradient in found.of["q"]]).norm()
    theirs.train(1, SIZE)
    assert found.metrics["train/q_loss"].item() == pytest.approx(theirs.logger.name_to_value["train/loss"], rel=1e-5)
    assert_close(found.of["q"], [parameter.grad for parameter in theirs.q_net.parameters()])
    assert (norm == pytest.approx(0.2, rel=1e-4)) == (max_grad_norm == 0.2)


def test_dqn_takes_the_steps_of_stable_baselines3():
    batches = [random_batch(seed) for seed in range(5)]
    theirs, model = sb3_dqn(batches, max_grad_norm=0.5)
    start = [parameter.detach().clone() for parameter in model.q.parameters()]
    [optimizer], _ = model.configure_optimizers()
    for batch in batches:
        for parameter, gradient in zip(model.q.parameters(), model.gradients(batch).of["q"], strict=True):
            parameter.grad = gradient
        optimizer.step()
    theirs.train(5, SIZE)
    for before, own, other in zip(start, model.q.parameters(), theirs.q_net.parameters(), strict=True):
        assert (own - before).abs().max() > 3e-3  # of 5 steps of 1e-3
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


# TorchRL: DQN with its double target, and DiscreteSAC


def tensordict_of(batch: Transition):
    """Every third row is cut off by a time limit, which makes no difference to a target."""
    from tensordict import TensorDict

    cut_off = torch.arange(SIZE) % 3 == 0
    fields = {
        "observation": batch.obs,
        "action": batch.action,
        "steps_to_next_obs": (batch.discount.log() / np.log(GAMMA)).round().long()[:, None],
        "next": {
            "observation": batch.next_obs,
            "reward": batch.reward[:, None],
            "terminated": batch.terminated[:, None],
            "done": (batch.terminated | cut_off)[:, None],
        },
    }
    if not (batch.weight == 1).all():
        fields["priority_weight"] = batch.weight
    return TensorDict(fields, [SIZE])


def module_of(out_key):
    from tensordict.nn import TensorDictModule

    body = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, ACTIONS))
    return TensorDictModule(body, in_keys=["observation"], out_keys=[out_key])


def tensors(named, prefix):
    """Their parameters or buffers under a name, in the order of ours: weight and bias, layer by layer."""
    return [tensor for name, tensor in named if name.startswith(f"{prefix}_network_params")]


def moved(targets):
    """Targets of their own."""
    with torch.no_grad():
        for target in targets:
            target += 0.5 * torch.randn_like(target)
    return targets


def weighted(batch, kind):
    return batch._replace(weight=0.2 + torch.rand(SIZE)) if kind == "weighted" else batch


def mean_over_weights(batch):
    """Their weights are normalized to a mean of one in the batch; ours are of the buffer, and are taken as they are."""
    return SIZE / batch.weight.sum().item()


@pytest.mark.parametrize("kind", ["plain", "weighted"])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(("loss", "their_loss", "factor"), [("squared", "l2", 2), ("huber", "smooth_l1", 1)])
@pytest.mark.filterwarnings("ignore:No target network updater")
def test_dqn_has_the_loss_and_gradients_of_torchrl(loss, their_loss, factor, double, kind):
    pytest.importorskip("torchrl")
    from torchrl.data import Categorical
    from torchrl.modules import QValueActor
    from torchrl.objectives import DQNLoss, ValueEstimators

    actor = QValueActor(module_of("action_value"), spec=Categorical(ACTIONS), action_space="categorical")
    theirs = DQNLoss(actor, action_space="categorical", delay_value=True, double_dqn=double, loss_function=their_loss)
    theirs.make_value_estimator(ValueEstimators.TD0, gamma=GAMMA)
    online = tensors(theirs.named_parameters(), "value")
    target = moved(tensors(theirs.named_buffers(), "target_value"))
    model = DQN(OBS, ACTION, GAMMA, loss=loss, double=double, network=NETWORK, compile=False)
    copy_weights(online, model.q.parameters())
    copy_weights(target, model.target_q.parameters())

    batch = weighted(random_batch(), kind)
    found = model.gradients(batch)
    td = tensordict_of(batch)
    expected = theirs(td)["loss"]
    factor *= mean_over_weights(batch)  # and their squared loss has no ½
    assert factor * found.metrics["train/q_loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(found.td_error.square(), td["td_error"].squeeze(-1), rtol=1e-4, atol=1e-5)
    assert_close([factor * gradient for gradient in found.of["q"]], torch.autograd.grad(expected, online))


@pytest.mark.parametrize("kind", ["plain", "weighted"])
@pytest.mark.parametrize("target_entropy", [None, 0.4])
@pytest.mark.filterwarnings("ignore:No target network updater")
def test_discrete_sac_has_the_losses_and_gradients_of_torchrl(kind, target_entropy):
    pytest.importorskip("torchrl")
    from torchrl.data import Categorical
    from torchrl.modules import ProbabilisticActor
    from torchrl.objectives import DiscreteSACLoss, ValueEstimators

    actor = ProbabilisticActor(
        module_of("logits"), in_keys=["logits"], out_keys=["action"], spec=Categorical(ACTIONS),
        distribution_class=torch.distributions.Categorical,
    )  # fmt: skip
    theirs = DiscreteSACLoss(
        actor, module_of("action_value"), action_space="categorical", num_actions=ACTIONS, loss_function="l2",
        alpha_init=0.4, target_entropy="auto" if target_entropy is None else target_entropy,
    )  # fmt: skip
    theirs.make_value_estimator(ValueEstimators.TD0, gamma=GAMMA)
    policy, q = tensors(theirs.named_parameters(), "actor"), tensors(theirs.named_parameters(), "qvalue")
    target = moved(tensors(theirs.named_buffers(), "target_qvalue"))  # both networks in one, [2, ...]
    model = DiscreteSAC(OBS, ACTION, GAMMA, ent_coef=0.4, target_entropy=target_entropy, network=NETWORK, compile=False)
    copy_weights(policy, model.policy.parameters())
    for stacked, ours in ((q, model.q), (target, model.target_q)):
        for i, network in enumerate((ours.q1, ours.q2)):
            copy_weights([tensor[i] for tensor in stacked], network.parameters())

    batch = weighted(random_batch(), kind)
    found = model.gradients(batch)
    td = tensordict_of(batch)
    expected = theirs(td)
    factor = 2 * mean_over_weights(batch)  # their squared loss has no ½
    assert factor * found.metrics["train/q_loss"].item() == pytest.approx(expected["loss_qvalue"].item(), rel=1e-5)
    first, second = found.of["q"][:4], found.of["q"][4:]
    got = [torch.stack(pair) for pair in zip(first, second, strict=True)]
    assert_close([factor * gradient for gradient in got], torch.autograd.grad(expected["loss_qvalue"], q))
    assert found.metrics["train/ent_coef"].item() == pytest.approx(expected["alpha"].item(), rel=1e-6)
    assert found.metrics["train/entropy"].item() == pytest.approx(expected["entropy"].item(), rel=1e-5)

    if kind == "weighted":  # theirs weights the policy's loss and the temperature's as well
        return
    assert found.metrics["train/policy_loss"].item() == pytest.approx(expected["loss_actor"].item(), rel=1e-5)
    assert_close(found.of["policy"], torch.autograd.grad(expected["loss_actor"], policy))
    assert_close(found.of["ent_coef"], torch.autograd.grad(expected["loss_alpha"], [theirs.log_alpha]))
