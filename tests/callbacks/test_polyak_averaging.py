import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from toys import GradientSteps, fit, make_trainer, noise_data, tiny_sac

from rl_lightning import PolyakAveraging, UsageError


def learner(online: nn.Module, target: nn.Module) -> SimpleNamespace:
    return SimpleNamespace(target_networks=lambda: [(online, target)])


def constant_linear(value: float) -> nn.Linear:
    linear = nn.Linear(1, 1)
    nn.init.constant_(linear.weight, value)
    nn.init.constant_(linear.bias, -value)
    return linear


def test_the_target_moves_by_tau_every_seventh_gradient_step():
    online, target = constant_linear(1.0), constant_linear(0.0)
    callback, expected = PolyakAveraging(tau=0.25, target_update_interval=7), 0.0
    for step in range(1, 31):
        with torch.no_grad():
            online.weight.fill_(step)
        callback.on_gradient_step_end(None, learner(online, target))
        if step in (7, 14, 21, 28):
            expected = 0.75 * expected + 0.25 * step
        assert target.weight.item() == expected  # exact: quarters of integers
        assert online.weight.item() == step


def test_tau_one_copies():
    online, target = nn.Linear(5, 5), nn.Linear(5, 5)
    PolyakAveraging(tau=1.0).on_gradient_step_end(None, learner(online, target))
    assert torch.equal(online.weight, target.weight)
    assert torch.equal(online.bias, target.bias)


def test_buffers_follow_too():
    online, target = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    for _ in range(3):
        online(torch.randn(64, 3) * 5 + 2)
    mean, var = online.running_mean.clone(), online.running_var.clone()
    PolyakAveraging(tau=0.5).on_gradient_step_end(None, learner(online, target))
    torch.testing.assert_close(target.running_mean, 0.5 * mean)
    torch.testing.assert_close(target.running_var, 0.5 * var + 0.5)
    assert target.num_batches_tracked == 3
    assert torch.equal(online.running_mean, mean)


def test_every_pair_follows():
    pairs = [(constant_linear(4.0), constant_linear(0.0)), (constant_linear(8.0), constant_linear(0.0))]
    PolyakAveraging(tau=0.5).on_gradient_step_end(None, SimpleNamespace(target_networks=lambda: pairs))
    assert [target.weight.item() for _, target in pairs] == [2.0, 4.0]
    assert [target.bias.item() for _, target in pairs] == [-2.0, -4.0]


def test_the_target_update_leaves_no_trace_for_autograd():
    online, target = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    PolyakAveraging(tau=0.5).on_gradient_step_end(None, learner(online, target))
    assert not target.weight.requires_grad
    assert target.weight.grad_fn is None


class TargetSpy(Callback):
    """The first online and target weight after each gradient step, before the averaging."""

    def __init__(self):
        self.seen: list[tuple[float, float]] = []

    def on_gradient_step_end(self, trainer, pl_module):
        self.seen.append(
            tuple(next(n.parameters()).flatten()[0].item() for n in (pl_module.value, pl_module.target_value))
        )


@pytest.mark.parametrize(("interval", "tau"), [(1, 0.1), (3, 0.5), (7, 1.0)])
def test_in_a_run_the_delay_is_counted_in_gradient_steps_and_not_in_batches(interval, tau):
    # 5 updates a batch: 3 and 7 divide neither them nor each other
    data = noise_data(replay_ratio=5.0, total_env_steps=20)
    model = tiny_sac(data.observation_space, data.action_space, tau=tau, target_update_interval=interval)
    start = next(model.target_value.parameters()).flatten()[0].item()
    spy, counter = TargetSpy(), GradientSteps()
    fit(model, data, make_trainer([spy, counter]))
    assert counter.count == len(spy.seen) == 5 * (20 - 12)
    target = start
    for step, (online, before_averaging) in enumerate(spy.seen, start=1):
        assert before_averaging == pytest.approx(target, abs=1e-7)
        if step % interval == 0:
            target = (1 - tau) * target + tau * online
    assert target != start
    assert next(model.target_value.parameters()).flatten()[0].item() == pytest.approx(target, abs=1e-7)


def test_the_clock_survives_a_state_dict_but_the_settings_are_the_runs():
    callback = PolyakAveraging(tau=0.5, target_update_interval=3)
    online, target = constant_linear(1.0), constant_linear(0.0)
    for _ in range(5):
        callback.on_gradient_step_end(None, learner(online, target))
    restored = PolyakAveraging(tau=1.0, target_update_interval=7)
    restored.load_state_dict(callback.state_dict())
    assert (restored.gradient_steps, restored.tau, restored.target_update_interval) == (5, 1.0, 7)


def test_a_users_own_averaging_replaces_the_learners():
    # the example of its docstring
    data = noise_data()
    model = tiny_sac(data.observation_space, data.action_space, tau=0.005)
    mine = PolyakAveraging(tau=1.0, target_update_interval=3)
    trainer = fit(model, data, make_trainer([mine]))
    assert [c for c in trainer.callbacks if isinstance(c, PolyakAveraging)] == [mine]


def test_a_users_subclass_replaces_the_learners():
    class Mine(PolyakAveraging):
        pass

    data, mine = noise_data(), Mine(tau=1.0)
    model = tiny_sac(data.observation_space, data.action_space)
    trainer = fit(model, data, make_trainer([mine]))
    assert [c for c in trainer.callbacks if isinstance(c, PolyakAveraging)] == [mine]
    assert mine.gradient_steps == 20 - 12


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tau", 0.0),
        ("tau", -0.1),
        ("tau", 1.1),
        ("tau", math.nan),
        ("target_update_interval", 0),
        ("target_update_interval", -3),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(key, value):
    with pytest.raises(UsageError, match=f"^{key}={value!r} is not allowed: "):
        PolyakAveraging(**{key: value})
