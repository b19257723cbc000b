import math
import shutil
import warnings
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from corridor import LEFT, RIGHT, TABLE, corridor_data
from gymnasium.spaces import Box, Discrete
from lightning.pytorch import Callback
from linear import approx, flat, sgd
from torch.optim import Adam
from toys import LINEAR, TINY, GradientSteps, RewardOneEnv, SpacesEnv, fit, make_trainer

from rl_lightning import DQN, EpsilonGreedy, ReplayDataModule, Transition, UsageError
from rl_lightning.fast.compilation import compiled_or_eager

OBS = Box(-np.inf, np.inf, (1,), np.float32)
ACTION = Discrete(2)
ALL_OPTIONS = {"double": True, "dueling": True, "loss": "huber", "max_grad_norm": 0.1}


class RewardOneChoicesEnv(RewardOneEnv):
    """RewardOneEnv with two actions, which are alike."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.action_space = Discrete(2)


if "RewardOneChoices-v0" not in gym.registry:
    gym.register("RewardOneChoices-v0", RewardOneChoicesEnv)


@torch.no_grad()
def set_linear(network, weight, bias):
    network[0].weight.copy_(torch.tensor(weight))
    network[0].bias.copy_(torch.tensor(bias))


def linear_dqn(**settings) -> DQN:
    """Q(s, ·) = (s, 1 − s), Q_target(s, ·) = (3s − 1, 2s + 3)."""
    dqn = DQN(OBS, ACTION, network=LINEAR, compile=False, **settings)
    set_linear(dqn.q.body, [[1.0], [-1.0]], [0.0, 1.0])
    set_linear(dqn.target_q.body, [[3.0], [2.0]], [-1.0, 3.0])
    return dqn


def three_transitions() -> Transition:
    return Transition(
        obs=torch.tensor([[1.0], [-2.0], [0.5]]),
        action=torch.tensor([0, 1, 1]),
        reward=torch.tensor([1.0, -3.0, 0.5]),
        next_obs=torch.tensor([[2.0], [4.0], [-1.0]]),
        terminated=torch.tensor([False, True, False]),
        discount=torch.tensor([0.5, 0.5, 0.25]),
        weight=torch.tensor([1.0, 0.5, 2.0]),
    )


# Q(s, a) = [1, 3, 0.5]. Q_target(s', ·) is (5, 7) and (−4, 1), so the targets are 1 + 0.5·7, −3 (terminated) and
# 0.5 + 0.25·1. Q(s', ·) is (2, −1) and (−1, 2): double takes Q_target's 5 and 1, and has 1 + 0.5·5 first
ERRORS = {False: [1 - 4.5, 3 + 3, 0.5 - 0.75], True: [1 - 3.5, 3 + 3, 0.5 - 0.75]}
WEIGHTS = [1.0, 0.5, 2.0]


def huber(error):
    return 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5


def random_batch(size=6) -> Transition:
    obs, next_obs, reward = torch.randn(size, 1), torch.randn(size, 1), torch.randn(size)
    terminated, discount = torch.rand(size) < 0.3, 0.9 ** (1 + torch.rand(size))
    return Transition(obs, torch.arange(size) % 2, reward, next_obs, terminated, discount, torch.rand(size))


# The loss


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("loss", ["squared", "huber"])
def test_the_loss_and_its_gradient_are_those_worked_out_by_hand(loss, double):
    found = linear_dqn(loss=loss, double=double).gradients(three_transitions())
    errors = ERRORS[double]
    losses = [huber(error) if loss == "huber" else 0.5 * error**2 for error in errors]
    q_loss, td_error = (
        sum(w * one for w, one in zip(WEIGHTS, losses, strict=True)) / 3,
        [abs(error) for error in errors],
    )
    assert found.metrics["train/q_loss"].item() == approx(q_loss)
    assert found.metrics["train/td_error"].tolist() == found.td_error.tolist() == approx(td_error)
    assert found.metrics["train/q_mean"].item() == approx((1 + 3 + 0.5) / 3)
    slopes = [max(-1.0, min(1.0, error)) for error in errors] if loss == "huber" else errors
    a, b, c = (w * slope / 3 for w, slope in zip(WEIGHTS, slopes, strict=True))
    # by the weights of both actions, then their biases; s is 1, −2 and 0.5, the actions 0, 1 and 1
    assert flat(found.of["q"]) == approx([a * 1, b * -2 + c * 0.5, a, b + c])


def test_the_action_of_the_double_target_is_chosen_by_the_online_network_and_not_by_the_target():
    # else the test by hand would not tell: the two disagree there
    plain, double = linear_dqn(), linear_dqn(double=True)
    batch = three_transitions()
    assert plain.next_value(batch)[[0, 2]].tolist() == [7.0, 1.0]
    assert double.next_value(batch)[[0, 2]].tolist() == [5.0, 1.0]


def test_a_dueling_q_is_the_value_plus_the_advantage_over_their_mean():
    dqn = DQN(OBS, Discrete(3), network=LINEAR, dueling=True, compile=False)
    set_linear(dqn.q.body, [[1.0], [-1.0], [2.0]], [0.0, 3.0, 0.0])
    set_linear(dqn.q.value, [[2.0]], [1.0])
    # V = 3 and −3; U = (1, 2, 2) of mean 5/3, and (−2, 5, −4) of mean −1/3
    q = dqn.q(torch.tensor([[1.0], [-2.0]]))
    assert q[0].tolist() == approx([3 + 1 - 5 / 3, 3 + 2 - 5 / 3, 3 + 2 - 5 / 3])
    assert q[1].tolist() == approx([-3 - 2 + 1 / 3, -3 + 5 + 1 / 3, -3 - 4 + 1 / 3])

    batch = three_transitions()
    batch = Transition(*(field[:1] for field in batch))._replace(terminated=torch.tensor([True]))
    found = dqn.gradients(batch)
    error = (3 + 1 - 5 / 3) - 1  # at s = 1, action 0, reward 1
    assert found.metrics["train/q_loss"].item() == approx(0.5 * error**2)
    by_name = dict(zip([name for name, _ in dqn.q.named_parameters()], found.of["q"], strict=True))
    for part, expected in {"body": [2 / 3, -1 / 3, -1 / 3], "value": [1.0]}.items():
        for kind in ("weight", "bias"):
            assert by_name[f"{part}.0.{kind}"].flatten().tolist() == approx([error * slope for slope in expected])


def test_a_time_limit_bootstraps_and_termination_does_not():
    dqn, batch = linear_dqn(), three_transitions()
    elsewhere = batch._replace(next_obs=torch.tensor([[2.0], [99.0], [-1.0]]))
    assert torch.equal(dqn.gradients(batch).td_error, dqn.gradients(elsewhere).td_error)
    alive = dqn.gradients(batch._replace(terminated=torch.tensor([False] * 3))).td_error
    assert alive.tolist() == approx([3.5, 3 - (-3 + 0.5 * 11), 0.25])
    batch.next_obs[1] = torch.inf
    assert dqn.gradients(batch).metrics["train/q_loss"].isfinite()


@pytest.mark.parametrize(("max_grad_norm", "factor"), [(None, 1.0), (1e9, 1.0), (0.3, None)])
def test_the_gradient_is_clipped_to_the_norm_of_all_its_parameters(max_grad_norm, factor):
    free = torch.tensor(flat(linear_dqn().gradients(three_transitions()).of["q"]))
    found = linear_dqn(max_grad_norm=max_grad_norm).gradients(three_transitions())
    expected = free * (factor or max_grad_norm / free.norm().item())
    assert flat(found.of["q"]) == approx(expected.tolist())
    assert found.td_error.tolist() == approx([3.5, 6, 0.25])


@pytest.mark.parametrize("double", [False, True])
def test_the_target_gets_no_gradient_even_where_the_online_network_chooses_its_action(double):
    dqn, batch = linear_dqn(double=double), three_transitions()
    assert not dqn.next_value(batch).requires_grad
    # where the target is met nothing is left to move
    met = batch._replace(reward=torch.tensor([1 - 0.5 * (5.0 if double else 7.0), 3.0, 0.25]))
    assert flat(dqn.gradients(met).of["q"]) == approx([0.0] * 4)


def test_gradients_with_all_options_change_nothing():
    dqn, batch = DQN(OBS, ACTION, network=TINY, compile=False, **ALL_OPTIONS), random_batch()
    weights = {name: tensor.clone() for name, tensor in dqn.state_dict().items()}
    copy = Transition(*(field.clone() for field in batch))
    first = dqn.gradients(batch)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in dqn.state_dict().items())
    assert all(torch.equal(one, other) for one, other in zip(batch, copy, strict=True))
    assert all(parameter.grad is None for parameter in dqn.parameters())
    assert flat(dqn.gradients(batch).of["q"]) == flat(first.of["q"])


@pytest.mark.skipif(not shutil.which("g++") and not shutil.which("clang++"), reason="there is no C++ compiler")
def test_compiled_gradients_with_all_options_equal_eager_ones():
    dqn, batch = DQN(OBS, ACTION, network=TINY, compile=False, **ALL_OPTIONS), random_batch()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="gradients run eagerly")  # it would mean that nothing was compiled
        compiled = compiled_or_eager(lambda batch: dqn.gradients(batch).detach())(batch)
    eager = dqn.gradients(batch).detach()
    torch.testing.assert_close(compiled.metrics, eager.metrics)
    torch.testing.assert_close(compiled.of, eager.of)
    torch.testing.assert_close(compiled.td_error, eager.td_error)


# What moves


def noise_data(**settings):
    settings = {"learning_starts": 12, "total_env_steps": 20, "batch_size": 8, "buffer_size": 1000, **settings}
    return ReplayDataModule("toys:Spaces-v0", **settings)


def test_the_optimizer_moves_both_parts_of_a_dueling_q_and_not_its_target():
    data = noise_data()
    model = DQN(
        data.observation_space, data.action_space, network=TINY, dueling=True, q_optimizer=sgd(0.1), compile=False
    )
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    fit(model, data)
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name in before if name.startswith("q.")}
    assert len(changed) == 8


def test_the_target_starts_as_a_copy_and_is_copied_every_so_many_gradient_steps():
    data = noise_data(total_env_steps=12 + 17)
    model = DQN(data.observation_space, data.action_space, network=TINY, target_update_interval=7, compile=False)
    for online, target in zip(model.q.parameters(), model.target_q.parameters(), strict=True):
        assert torch.equal(online, target)
        assert online.data_ptr() != target.data_ptr()
    equal = []

    class Spy(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            pairs = zip(model.q.parameters(), model.target_q.parameters(), strict=True)
            equal.append(all(torch.equal(online, target) for online, target in pairs))

    counter = GradientSteps()
    fit(model, data, make_trainer([Spy(), counter]))
    assert counter.count == 17
    assert [step for step, same in enumerate(equal, start=1) if same] == [7, 14]


def test_the_priorities_of_the_replay_are_the_td_errors_of_the_gradients():
    data = noise_data(priority_alpha=0.5, n_step=3)
    model = DQN(data.observation_space, data.action_space, network=TINY, compile=False)
    given, taken, compute = [], [], model.compute_gradients

    def noting(batch):
        taken.append((batch.weight.clone(), compute(batch)))
        return taken[-1][1]

    model.compute_gradients = noting
    data.setup("fit")
    update = data.buffer.update_priorities
    data.buffer.update_priorities = lambda index, td_error: given.append(td_error.clone()) or update(index, td_error)
    fit(model, data)
    assert len(taken) == len(given) == 8
    assert all(torch.equal(error, found.td_error) for error, (_, found) in zip(given, taken, strict=True))
    assert not any(tensor.requires_grad for _, found in taken for tensor in (found.td_error, *found.metrics.values()))
    assert any((weight < 1).any() for weight, _ in taken)
    assert all((weight <= 1).all() and (weight > 0).all() for weight, _ in taken)


def test_bf16_autocast_with_all_options_keeps_weights_gradients_and_losses_in_float32():
    # double values s' without gradients by the network that gets them at s: a copy in bf16 must not be kept
    data = noise_data()
    model = DQN(data.observation_space, data.action_space, network=TINY, compile=False, **ALL_OPTIONS)
    trainer = fit(model, data, make_trainer(precision="bf16-mixed"))
    gradients = [p.grad for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert len(gradients) == 8
    assert {tensor.dtype for tensor in [*model.metrics.values(), *gradients, *model.parameters()]} == {torch.float32}
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in gradients)


# Exploration


def exploring(**settings):
    return {"exploration": partial(EpsilonGreedy, **settings)}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.9, 0.9, 0.9, 0.9, 0.9]),
        ("linear", [0.9, 0.7, 0.5, 0.1, 0.1]),
        ("cosine", [0.9, 0.5 + 0.4 * math.sqrt(0.5), 0.5, 0.1, 0.1]),
    ],
)
def test_epsilon_goes_from_its_start_to_its_end_within_its_share_of_the_run(schedule, expected):
    exploration = EpsilonGreedy(initial_eps=0.9, final_eps=0.1, fraction=0.4, schedule=schedule)
    assert [exploration.epsilon(progress) for progress in (0.0, 0.1, 0.2, 0.4, 0.9)] == pytest.approx(expected)


def test_outside_a_run_epsilon_is_that_of_its_end():
    dqn = linear_dqn(**exploring(final_eps=0.07))
    assert dqn.clock.progress == 1.0
    assert dqn.exploration.epsilon(dqn.clock.progress) == pytest.approx(0.07)


def test_in_a_run_epsilon_counts_the_environment_steps_of_all_environments():
    data = noise_data(num_envs=2, total_env_steps=100)
    model = DQN(data.observation_space, data.action_space, network=TINY, compile=False, **exploring(fraction=0.5))
    seen, epsilon = [], model.exploration.epsilon

    def noting(progress):
        seen.append((model.env_steps, epsilon(progress)))
        return seen[-1][1]

    model.exploration.epsilon = noting
    fit(model, data)
    assert [steps for steps, _ in seen] == list(range(12, 100, 2))
    assert [epsilon for _, epsilon in seen] == pytest.approx([max(0.05, 1 - 0.95 * n / 50) for n, _ in seen])


def test_actions_are_greedy_but_for_epsilon():
    dqn = linear_dqn(**exploring(final_eps=0.3))  # Q = (s, 1 − s)
    obs = torch.tensor([[2.0], [-2.0]]).repeat(20_000, 1)
    greedy = torch.tensor([0, 1]).repeat(20_000)
    action = dqn.act(obs)
    assert action.dtype == torch.int64
    for best in (0, 1):  # 0.3 of them at random, half of which are greedy by chance
        share = (action == greedy)[greedy == best].float().mean().item()
        assert share == pytest.approx(1 - 0.3 / 2, abs=5 * 0.36 / 20_000**0.5)
    assert torch.equal(dqn.act(obs, deterministic=True), greedy)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("initial_eps", -0.1), ("initial_eps", 1.1), ("initial_eps", math.nan),
        ("final_eps", -0.1), ("final_eps", 1.1), ("final_eps", math.nan),
        ("fraction", 0.0), ("fraction", 1.1), ("fraction", math.nan),
        ("schedule", "exponential"),
    ],
)  # fmt: skip
def test_exploration_out_of_range_is_refused_by_name(key, value):
    with pytest.raises(UsageError, match=f"^exploration.{key}=.* is not allowed: ") as caught:
        linear_dqn(**exploring(**{key: value}))
    assert "\n" not in str(caught.value)


# Observations


@pytest.mark.parametrize("kind", SpacesEnv.OBSERVATIONS)
def test_a_policy_of_every_kind_of_observation_is_evaluated(kind):
    data = noise_data(env_kwargs={"obs": kind}, eval_episodes=2)
    model = DQN(data.observation_space, data.action_space, network=TINY, dueling=True, compile=False)
    [row] = make_trainer(validate=True).validate(model, data, verbose=False)
    assert row["val/episode_length_mean"] == 5.0


# Whole runs


@pytest.mark.parametrize("replay", [{}, {"n_step": 3, "priority_alpha": 0.6}], ids=["uniform", "3-step-prioritized"])
@pytest.mark.parametrize(
    ("ending", "length", "states", "expected"),
    [
        ("truncate", 3, 1, [1 / (1 - 0.6)]),
        ("terminate", 1, 1, [1.0]),
        ("both", 1, 1, [1.0]),
        ("terminate", 3, 3, [1 + 0.6 + 0.36, 1 + 0.6, 1.0]),
    ],
)
def test_the_value_bootstraps_at_a_time_limit_and_not_at_termination(ending, length, states, expected, replay):
    data = ReplayDataModule(
        "RewardOneChoices-v0",
        {"ending": ending, "length": length, "states": states},
        learning_starts=64,
        total_env_steps=264,
        batch_size=32,
        buffer_size=400,
        **replay,
    )
    model = DQN(
        data.observation_space, data.action_space, gamma=0.6, target_update_interval=5, network=LINEAR,
        q_optimizer=sgd(0.5), compile=False,
    )  # fmt: skip
    fit(model, data)
    with torch.no_grad():
        q = model.q(torch.eye(states))
    for action in (0, 1):
        assert q[:, action].tolist() == pytest.approx(expected, abs=0.03)


def optimal_q(gamma):
    """Of the corridor's three states: reward 1 for reaching the fourth, moves against a wall stay."""
    value = [gamma**2, gamma, 1.0]
    q = np.array([[gamma * v] * 4 for v in value])
    for state in range(3):
        q[state, LEFT] = gamma * value[max(state - 1, 0)]
        q[state, RIGHT] = gamma * value[state + 1] if state < 2 else 1.0
    return q


@pytest.mark.parametrize("settings", [{}, {"double": True}, {"dueling": True, "loss": "huber", "max_grad_norm": 1.0}])
def test_it_learns_the_optimal_q_of_a_corridor(settings):
    data = corridor_data()
    model = DQN(
        data.observation_space, data.action_space, gamma=0.8, target_update_interval=20, network=TABLE,
        q_optimizer=partial(Adam, lr=4e-2), compile=False, **exploring(final_eps=1.0), **settings,
    )  # fmt: skip
    fit(model, data)
    with torch.no_grad():
        np.testing.assert_allclose(model.q(torch.arange(3)), optimal_q(0.8), atol=0.03)


def test_prioritized_three_step_replay_finds_the_end_of_a_corridor():
    data = corridor_data(n_step=3, priority_alpha=0.6, total_env_steps=500, eval_episodes=2)
    model = DQN(
        data.observation_space, data.action_space, gamma=0.8, target_update_interval=20, network=TINY, double=True,
        q_optimizer=partial(Adam, lr=1e-2), compile=False, **exploring(fraction=0.5),
    )  # fmt: skip
    fit(model, data)
    assert model.act(torch.arange(3), deterministic=True).tolist() == [RIGHT] * 3
    metrics = make_trainer(validate=True).validate(model, data, verbose=False)[0]
    assert metrics["val/return_mean"] == 1.0
    assert metrics["val/episode_length_mean"] == 3.0


def test_plain_q_learning_is_a_setting_of_it_and_equals_a_table_updated_step_by_step():
    # Algorithm 1 of the lecture: learn from each transition once, as it comes, with no target network
    data = corridor_data(buffer_size=1, batch_size=1, learning_starts=1, total_env_steps=400)
    model = DQN(
        data.observation_space, data.action_space, gamma=0.8, target_update_interval=1, network=TABLE,
        q_optimizer=sgd(0.5), compile=False, **exploring(fraction=1.0),
    )  # fmt: skip
    with torch.no_grad():
        table = model.q(torch.arange(4)).double().numpy().copy()
    data.setup("fit")
    steps, add = [], data.buffer.add
    data.buffer.add = lambda *step: steps.append([np.array(field)[0] for field in step[:6]]) or add(*step)
    fit(model, data)

    assert len(steps) == 400
    assert sum(terminated for *_, terminated, _ in steps) > 10
    for state, action, reward, next_state, terminated, _ in steps[1:]:  # the first was the random one
        target = reward + (0.0 if terminated else 0.8 * table[next_state].max())
        table[state, action] += 0.5 * (target - table[state, action])
    with torch.no_grad():
        np.testing.assert_allclose(model.q(torch.arange(4)), table, atol=1e-5)
    assert model.act(torch.arange(3), deterministic=True).tolist() == [RIGHT] * 3
