import math
import shutil
import warnings
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from lightning.pytorch import Callback
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from toys import LINEAR, TINY, GradientSteps, fit, make_trainer, noise_data

from rl_lightning import TD3, ReplayDataModule, Transition

OBS = Box(-np.inf, np.inf, (1,), np.float32)
ACTION = Box(-1.0, 1.0, (1,), np.float32)


def linear_td3(**settings) -> TD3:
    """Q1 = s + 2a, Q2 = −s + a + 1, targets 3s − a and 5a, μ = tanh(0.5s + 0.25), μ_target = tanh(−0.25s + 1)."""
    td3 = TD3(OBS, ACTION, network=LINEAR, compile=False, **settings)
    with torch.no_grad():
        for network, weight, bias in (
            (td3.q.q1, [[1.0, 2.0]], 0.0),
            (td3.q.q2, [[-1.0, 1.0]], 1.0),
            (td3.target_q.q1, [[3.0, -1.0]], 0.0),
            (td3.target_q.q2, [[0.0, 5.0]], 0.0),
            (td3.policy, [[0.5]], 0.25),
            (td3.target_policy, [[-0.25]], 1.0),
        ):
            network.body[0].weight.copy_(torch.tensor(weight))
            network.body[0].bias.fill_(bias)
    return td3


def two_transitions() -> Transition:
    return Transition(
        obs=torch.tensor([[1.0], [-2.0]]),
        action=torch.tensor([[0.5], [-0.25]]),
        reward=torch.tensor([1.0, -3.0]),
        next_obs=torch.tensor([[2.0], [-4.0]]),
        terminated=torch.tensor([False, True]),
        discount=torch.tensor([0.5, 0.125]),
        weight=torch.tensor([1.0, 3.0]),
    )


def approx(values):
    return pytest.approx(values, rel=1e-5, abs=1e-6)


# Without noise the second target is the minimum at s' = 2, 5 tanh(0.5) < 6 − tanh(0.5), the first at −4, −12 − tanh(2)
FIRST, SECOND = 1 + 0.5 * 5 * math.tanh(0.5), -3 + 0.125 * (-12 - math.tanh(2.0))


@pytest.mark.parametrize(
    ("terminated", "targets"),
    [([False, True], [FIRST, -3]), ([True, False], [1, SECOND]), ([False, False], [FIRST, SECOND])],
)
def test_the_q_loss_and_its_gradient_are_those_worked_out_by_hand(terminated, targets):
    batch = two_transitions()._replace(terminated=torch.tensor(terminated))
    found = linear_td3(target_policy_noise=0.0).gradients(batch, False)
    # Q1 = [1 + 1, −2 − 0.5], Q2 = [−1 + 0.5 + 1, 2 − 0.25 + 1]; weights 1 and 3
    (e11, e12), (e21, e22) = [2 - targets[0], -2.5 - targets[1]], [0.5 - targets[0], 2.75 - targets[1]]
    q_loss = (0.5 * e11**2 + 3 * 0.5 * e12**2) / 2 + (0.5 * e21**2 + 3 * 0.5 * e22**2) / 2
    assert found.metrics["train/q_loss"].item() == approx(q_loss)
    td_error = [(abs(e11) + abs(e21)) / 2, (abs(e12) + abs(e22)) / 2]
    assert found.metrics["train/td_error"].tolist() == found.td_error.tolist() == approx(td_error)
    assert found.metrics["train/q_mean"].item() == approx((0.5 - 2.5) / 2)
    w1, b1, w2, b2 = (gradient.flatten().tolist() for gradient in found.of["q"])
    assert w1 == approx([(e11 * 1 + 3 * e12 * -2) / 2, (e11 * 0.5 + 3 * e12 * -0.25) / 2])
    assert b1 == approx([(e11 + 3 * e12) / 2])
    assert w2 == approx([(e21 * 1 + 3 * e22 * -2) / 2, (e21 * 0.5 + 3 * e22 * -0.25) / 2])
    assert b2 == approx([(e21 + 3 * e22) / 2])


def test_the_policy_climbs_the_first_q_even_where_the_second_is_smaller():
    found = linear_td3().gradients(two_transitions(), True)
    a1, a2 = math.tanh(0.75), math.tanh(-0.75)
    assert -1 + a1 + 1 < 1 + 2 * a1  # Q2 < Q1 in the first row
    assert found.metrics["train/policy_loss"].item() == approx(-((1 + 2 * a1) + (-2 + 2 * a2)) / 2)
    du1, du2 = -2 * (1 - a1**2), -2 * (1 - a2**2)
    weight, bias = (gradient.item() for gradient in found.of["policy"])
    assert weight == approx((du1 * 1 + du2 * -2) / 2)
    assert bias == approx((du1 + du2) / 2)


def at(next_obs: float, rows: int) -> Transition:
    batch = two_transitions()
    return Transition(*(field[:1].expand(rows, *field.shape[1:]) for field in batch))._replace(
        next_obs=torch.full((rows, 1), next_obs)
    )


def crossing_td3(**settings) -> TD3:
    """Both targets cross at s' = 0.25, a = 0.5: Q1 = s + 2a, Q2 = −s + a + 1; and μ_target = tanh(s + 0.25)."""
    td3 = linear_td3(**settings)
    td3.target_q.load_state_dict(td3.q.state_dict())
    with torch.no_grad():
        td3.target_policy.body[0].weight.fill_(1.0)
        td3.target_policy.body[0].bias.fill_(0.25)
    return td3


def test_the_targets_noise_is_clipped_and_is_the_same_for_both_twins():
    values = crossing_td3(target_policy_noise=1e6, target_noise_clip=0.375).next_value(at(0.25, 64))
    low, high = math.tanh(0.5) - 0.375, math.tanh(0.5) + 0.375
    assert low < 0.5 < high  # the minimum is of another Q on either side
    assert sorted({round(value, 5) for value in values.tolist()}) == approx(
        [round(0.25 + 2 * low, 5), round(0.75 + high, 5)]
    )


def test_the_targets_noisy_action_is_clipped_to_the_space():
    values = crossing_td3(target_policy_noise=1e6, target_noise_clip=1e6).next_value(at(0.25, 64))
    assert {*values.tolist()} == {0.25 - 2.0, 0.75 + 1.0}


def test_the_targets_noise_has_its_deviation_and_is_another_in_every_row():
    # Q2 is the minimum: −s + a + 1 at s = 5, where μ_target = tanh(5 − 5)
    td3 = crossing_td3(target_policy_noise=0.1)
    with torch.no_grad():
        td3.target_policy.body[0].bias.fill_(-5.0)
    actions = td3.next_value(at(5.0, 40_000)).double() + 4
    assert actions.mean().item() == pytest.approx(0.0, abs=5 * 0.1 / 200)
    assert actions.std().item() == pytest.approx(0.1, rel=5 / (2 * 40_000) ** 0.5)
    assert len(actions.unique()) > 30_000


def test_without_noise_the_target_is_the_same_every_time():
    td3 = linear_td3(target_policy_noise=0.0)
    assert torch.equal(td3.next_value(two_transitions()), td3.next_value(two_transitions()))


# The delay


class Snapshots(Callback):
    """All parameters by network: at the start, after every gradient step before the targets follow, at the end."""

    def __init__(self):
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_train_start(self, trainer, pl_module):
        self.seen.append(
            {
                name: torch.cat([p.detach().flatten() for p in getattr(pl_module, name).parameters()])
                for name in ("q", "policy", "target_q", "target_policy")
            }
        )

    on_gradient_step_end = on_train_end = on_train_start

    def steps_that_moved(self, name: str, first: int = 1) -> list[int]:
        """By number, the first gradient step being the `first`."""
        seen = self.seen[1:] if name.startswith("target") else self.seen[:-1]
        return [step for step, (old, new) in enumerate(pairwise(seen), first) if not torch.equal(old[name], new[name])]


# seven gradient steps a batch: a delay of three divides neither them nor the 56 of the run
def seven_a_batch(total_env_steps=20) -> ReplayDataModule:
    return noise_data(replay_ratio=7.0, total_env_steps=total_env_steps)


def delayed_td3(data: ReplayDataModule, **settings) -> TD3:
    return TD3(
        data.observation_space, data.action_space, network=TINY, tau=0.25,
        q_optimizer=lambda params: SGD(params, lr=0.01), policy_optimizer=lambda params: SGD(params, lr=0.01),
        **{"compile": False, "policy_delay": 3, **settings},
    )  # fmt: skip


has_compiler = pytest.mark.skipif(
    not shutil.which("g++") and not shutil.which("clang++"), reason="there is no C++ compiler"
)


@pytest.mark.parametrize(
    ("policy_delay", "compile"), [(1, False), (3, False), (7, False), pytest.param(3, True, marks=has_compiler)]
)
def test_policy_and_targets_move_at_every_third_gradient_step_and_at_no_other(policy_delay, compile):
    data, spy = seven_a_batch(), Snapshots()
    model = delayed_td3(data, policy_delay=policy_delay, compile=compile)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="gradients run eagerly|Dynamo detected")
        fit(model, data, make_trainer([spy]))
    assert model.gradient_steps == 7 * 8
    assert spy.steps_that_moved("q") == [*range(1, 57)]
    due = [*range(policy_delay, 57, policy_delay)]
    for name in ("policy", "target_policy", "target_q"):
        assert spy.steps_that_moved(name) == due
    for step in due:
        now, then = spy.seen[step : step + 2]
        for name in ("policy", "q"):
            expected = 0.75 * now[f"target_{name}"] + 0.25 * now[name]
            torch.testing.assert_close(then[f"target_{name}"], expected, rtol=1e-5, atol=1e-6)


def test_a_resumed_run_goes_on_with_the_delay_where_it_was(tmp_path):
    data = seven_a_batch()
    trainer = fit(delayed_td3(data), data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["rl_lightning"]["gradient_steps"] == saved["callbacks"]["PolyakAveraging"]["gradient_steps"] == 56

    data, spy = seven_a_batch(total_env_steps=22), Snapshots()
    model = delayed_td3(data)
    make_trainer([spy]).fit(model, datamodule=data, ckpt_path=tmp_path / "last.ckpt")
    assert model.gradient_steps == 56 + 2 * 7
    for name in ("policy", "target_policy", "target_q"):
        assert spy.steps_that_moved(name, first=57) == [57, 60, 63, 66, 69]


def test_a_second_run_of_a_model_counts_from_one_again():
    model = delayed_td3(seven_a_batch())
    fit(model, seven_a_batch())
    assert model.gradient_steps == 56
    spy = Snapshots()
    fit(model, seven_a_batch(total_env_steps=13), make_trainer([spy]))
    for name in ("policy", "target_policy", "target_q"):
        assert spy.steps_that_moved(name) == [3, 6]


def test_the_gradient_of_the_policy_is_left_out_where_it_is_not_due():
    td3, batch = linear_td3(target_policy_noise=0.0), two_transitions()
    due, other = td3.gradients(batch, True), td3.gradients(batch, False)
    assert {*due.of} - {*other.of} == {"policy"}
    assert {*due.metrics} - {*other.metrics} == {"train/policy_loss"}
    assert all(torch.equal(a, b) for a, b in zip(due.of["q"], other.of["q"], strict=True))


def test_each_scheduler_steps_with_its_optimizer_without_a_complaint():
    data, schedule = seven_a_batch(), partial(LambdaLR, lr_lambda=lambda steps: 1 / (1 + steps))
    model, counter = delayed_td3(data, q_scheduler=schedule, policy_scheduler=schedule), GradientSteps()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Detected call of `lr_scheduler.step")
        trainer = fit(model, data, make_trainer([counter]))
    assert counter.count == 56
    lrs = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
    assert lrs == pytest.approx([0.01 / 57, 0.01 / (1 + 56 // 3)])


# Whole runs


@pytest.mark.parametrize(
    ("ending", "length", "states", "expected"),
    [
        ("truncate", 5, 1, [1 / (1 - 0.6)]),
        ("terminate", 5, 5, [1 + 0.6 + 0.36 + 0.216 + 0.1296, 1 + 0.6 + 0.36 + 0.216, 1.96, 1.6, 1.0]),
        ("both", 2, 2, [1.6, 1.0]),
    ],
)
def test_with_n_steps_and_priorities_q_is_the_known_value(ending, length, states, expected):
    data = ReplayDataModule(
        "toys:RewardOne-v0",
        {"ending": ending, "length": length, "states": states},
        learning_starts=64,
        total_env_steps=600,
        batch_size=32,
        buffer_size=600,
        n_step=3,
        priority_alpha=0.6,
    )
    model = TD3(
        data.observation_space, data.action_space, gamma=0.6, tau=0.5, network=LINEAR, compile=False,
        q_optimizer=lambda params: SGD(params, lr=0.3),
    )  # fmt: skip
    fit(model, data)
    with torch.no_grad():
        obs = torch.eye(states)
        for q in (*model.q(obs, model.policy(obs)), *model.target_q(obs, model.policy(obs))):
            assert q.tolist() == pytest.approx(expected, abs=0.04)
