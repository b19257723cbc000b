import warnings
from copy import deepcopy
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import LBFGS, SGD
from torch.optim.lr_scheduler import OneCycleLR
from toys import GradientSteps, counter_data, fit, make_trainer, noise_data, tiny_sac

from rl_lightning import Algorithm, EnvironmentInteraction, PolyakAveraging, UsageError
from rl_lightning.algorithms.base import Gradients
from rl_lightning.algorithms.shared import precision
from rl_lightning.callbacks.metrics_csv import MetricsCSV, read_rows
from rl_lightning.fast.compilation import compiled_or_eager
from rl_lightning.optim import ForeachRMSprop, FusedAdam


def sgd(params):
    return SGD(params, lr=0.5)


class TwoLosses(Algorithm):
    """Two parameters, two optimizers, constant gradients; the smallest learner there is."""

    def __init__(self, observation_space, action_space, optimizers=2):
        super().__init__(observation_space, action_space, gamma=0.9, compile=False)
        self.names = ["a", "b"][:optimizers]
        self.a, self.b = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
        for name in self.names:
            self.learned(name, getattr(self, name), sgd)
        self.batches = []

    def act(self, obs, deterministic=False):
        return torch.zeros(len(obs), 2)

    def learn(self, batch):
        for minibatch in batch.minibatches(self.gamma):
            found = self.compute_gradients(minibatch)
            for name in self.names:
                self.step(name, found)
            self.end_gradient_step(found)

    def gradients(self, batch):
        self.batches.append(batch)
        gradients = {"a": (torch.full((1, 1), 1.0),), "b": (torch.full((1, 1), 10.0),)}
        return Gradients(gradients, {"train/loss": batch.reward.mean()})


@pytest.mark.parametrize("optimizers", [1, 2])
def test_a_training_batch_is_a_gradient_step_of_each_optimizer_for_each_minibatch(optimizers):
    data = noise_data(replay_ratio=3.0, total_env_steps=14)
    model = TwoLosses(data.observation_space, data.action_space, optimizers)
    start, counter = [model.a.weight.item(), model.b.weight.item()], GradientSteps()
    trainer = fit(model, data, make_trainer([counter]))
    assert counter.count == len(model.batches) == 6
    assert trainer.global_step == 6 * optimizers
    assert {tuple(batch.obs.shape) for batch in model.batches} == {(8, 3)}
    moved = [start[0] - model.a.weight.item(), start[1] - model.b.weight.item()]
    assert moved == pytest.approx([6 * 0.5 * 1, 6 * 0.5 * 10 if optimizers == 2 else 0], abs=1e-5)


def test_minibatches_of_one_training_batch_differ():
    data = noise_data(replay_ratio=4.0, total_env_steps=13)
    model = TwoLosses(data.observation_space, data.action_space)
    fit(model, data)
    obs = torch.stack([batch.obs for batch in model.batches])
    assert len(obs) == 4
    assert not any(torch.equal(obs[i], obs[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize(
    ("gradients", "error"),
    [({"a": ()}, "shorter"), ({"a": (torch.ones(1, 1), torch.ones(1))}, "longer"), ({"b": (torch.ones(1, 1),)}, "'a'")],
    ids=["too few", "too many", "of another network"],
)
def test_gradients_that_do_not_match_the_network_are_an_error(gradients, error):
    data = noise_data()
    model = TwoLosses(data.observation_space, data.action_space)
    model.gradients = lambda batch: Gradients(gradients, {})
    with pytest.raises((ValueError, KeyError), match=error):
        fit(model, data)


def test_a_model_brings_its_callbacks_and_trains_in_three_lines():
    data = noise_data()
    model = tiny_sac(data.observation_space, data.action_space)
    trainer = fit(model, data)
    kinds = [type(callback) for callback in trainer.callbacks]
    assert kinds.count(EnvironmentInteraction) == kinds.count(PolyakAveraging) == 1
    assert model.env_steps == 20


def test_metrics_are_those_of_the_latest_gradient_step():
    data = noise_data(total_env_steps=15)
    model = TwoLosses(data.observation_space, data.action_space)
    fit(model, data)
    assert model.metrics["train/loss"] == model.batches[-1].reward.mean()


def test_returns_in_training_and_evaluation_can_be_monitored():
    data = counter_data(env_steps_per_epoch=20, eval_episodes=2)
    trainer = fit(tiny_sac(data.observation_space, data.action_space), data, make_trainer(validate=True))
    assert {"train/return", "val/return_mean", "val/return_std", "val/episode_length_mean"} <= {
        *trainer.callback_metrics
    }


def test_environment_steps_of_an_evaluation_are_exact_past_what_float32_counts(tmp_path):
    data = counter_data(eval_episodes=1, total_env_steps=2**25)
    data.clock.env_steps = 2**24 + 1
    model = tiny_sac(data.observation_space, data.action_space)
    trainer = make_trainer(logger=MetricsCSV(tmp_path), validate=True)
    [result] = trainer.validate(model, data, verbose=False)
    assert result["env_steps"] == 2**24 + 1
    trainer.loggers[0].save()
    [row] = read_rows(tmp_path / "metrics.csv")[0]
    assert float(row["env_steps"]) == 2**24 + 1


def test_float16_with_loss_scaling_is_refused(monkeypatch):
    data = noise_data()
    model = tiny_sac(data.observation_space, data.action_space)
    # without a GPU, Lightning itself turns 16-mixed into bf16-mixed
    monkeypatch.setattr(Trainer, "precision", property(lambda self: "16-mixed"))
    with pytest.raises(UsageError, match=r"precision='16-mixed' is not allowed: .*bf16-mixed"):
        fit(model, data)


@pytest.mark.parametrize("supported", [False, True])
def test_bf16_that_the_processor_has_to_emulate_is_told_of_once(monkeypatch, supported):
    monkeypatch.setattr(precision, "has_bf16_arithmetic", lambda: supported)
    data = noise_data()
    model = tiny_sac(data.observation_space, data.action_space)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, data, make_trainer(precision="bf16-mixed"))
    told = [str(one.message) for one in caught if "no bf16 arithmetic" in str(one.message)]
    assert len(told) == (0 if supported else 1)
    assert all("precision=bf16-mixed" in message and "32-true" in message for message in told)


def test_where_compiling_fails_it_runs_eagerly_with_one_warning(monkeypatch):
    def broken_compile(function, fullgraph, dynamic, options):
        def call(*args):
            raise torch._inductor.exc.InductorError(RuntimeError("no C++ compiler"), None)

        return call

    monkeypatch.setattr(torch, "compile", broken_compile)
    double = compiled_or_eager(lambda x: 2 * x)
    with pytest.warns(UserWarning, match="gradients run eagerly.*no C\\+\\+ compiler"):
        assert double(3) == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert double(4) == 8


def test_an_error_in_the_function_itself_is_not_taken_for_a_failed_compilation(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, fullgraph, dynamic, options: function)

    def wrong(x):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        compiled_or_eager(wrong)(1)


@pytest.mark.parametrize("listens", [False, True])
def test_steps_are_counted_and_callbacks_that_want_to_know_of_them_are_asked(listens):
    class Listener(Callback):
        asked = 0

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            assert all(parameter.grad is not None for group in optimizer.param_groups for parameter in group["params"])
            Listener.asked += 1

    data = noise_data()
    model = tiny_sac(data.observation_space, data.action_space)
    trainer = make_trainer(callbacks=[Listener()] if listens else [])
    fit(model, data, trainer)
    assert trainer.global_step == 3 * model.gradient_steps > 0
    begun = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.ready
    assert begun == trainer.global_step
    assert Listener.asked == (trainer.global_step if listens else 0)


class OwnOutput(TwoLosses):
    """Acts with `a`, and notes what `a` gives at 1 before each of its gradient steps, which all add 1 to it."""

    def act(self, obs, deterministic=False):
        return 0.0 * self.a(torch.ones(len(obs), 1)).expand(-1, 2)

    def gradients(self, batch):
        self.batches.append(self.a(torch.ones(1, 1)).item())
        gradients = {"a": (torch.full((1, 1), -2.0),), "b": (torch.zeros(1, 1),)}
        return Gradients(gradients, {"train/loss": batch.reward.mean()})


def test_every_gradient_step_of_a_training_batch_sees_the_weights_of_the_last_in_bf16():
    data = noise_data(replay_ratio=3.0, total_env_steps=16, env_steps_per_batch=2)
    model = OwnOutput(data.observation_space, data.action_space)
    torch.nn.init.constant_(model.a.weight, 0.0)
    fit(model, data, make_trainer(precision="bf16-mixed"))
    assert model.batches == [float(step) for step in range(12)]


class TwoTargets(TwoLosses):
    def __init__(self, observation_space, action_space, tau):
        super().__init__(observation_space, action_space)
        self.target_a, self.target_b = self.target_of(self.a, 0.5, 3), self.target_of(self.b, tau, 3)


def test_all_targets_of_a_learner_follow_at_one_pace():
    data = noise_data()
    model = TwoTargets(data.observation_space, data.action_space, tau=0.5)
    assert model.target_networks() == [(model.a, model.target_a), (model.b, model.target_b)]
    with pytest.raises(UsageError, match=r"tau, target_update_interval=\(0.1, 3\) is not allowed"):
        TwoTargets(data.observation_space, data.action_space, tau=0.1)


def test_an_optimizer_may_have_its_parameters_in_groups_of_any_order():
    """Two rates: weights, then biases; each moves by its own gradient."""
    data = noise_data(total_env_steps=13)
    model = TwoLosses(data.observation_space, data.action_space, optimizers=1)
    model.net = torch.nn.Linear(2, 2)
    torch.nn.init.zeros_(model.net.weight)
    torch.nn.init.zeros_(model.net.bias)

    def biases_first(params):
        weight, bias = params
        return SGD([{"params": [bias], "lr": 1.0}, {"params": [weight], "lr": 0.1}])

    model.learned("a", model.net, biases_first)
    weights, biases = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([5.0, 6.0])
    model.gradients = lambda batch: Gradients({"a": (weights, biases)}, {})
    fit(model, data)
    torch.testing.assert_close(model.net.weight.detach(), -0.1 * weights)
    torch.testing.assert_close(model.net.bias.detach(), -1.0 * biases)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (
            lambda params: SGD([next(iter(params))], lr=0.1),
            r"a_optimizer leaves out bias of a's 2 parameters: .*all of",
        ),
        (lambda params: SGD([*params, torch.nn.Parameter(torch.ones(1))], lr=0.1), "a_optimizer has 1 parameters that"),
        (LBFGS, "a_optimizer=LBFGS is not allowed: it needs the loss again"),
    ],
    ids=["one left out", "another's", "a closure"],
)
def test_an_optimizer_without_one_of_its_parameters_or_with_another_is_refused(optimizer, message):
    data = noise_data()
    model = TwoLosses(data.observation_space, data.action_space, optimizers=1)
    with pytest.raises(UsageError, match=message):
        model.learned("a", torch.nn.Linear(2, 2), optimizer)


def test_a_scheduler_that_sets_what_the_optimizer_would_ignore_is_refused():
    data = noise_data()
    model = TwoLosses(data.observation_space, data.action_space)
    one_cycle = partial(OneCycleLR, max_lr=0.1, total_steps=9)  # of the learning rate, and of momentum or β₁
    with pytest.raises(UsageError, match=r"^a_scheduler is not allowed: ForeachRMSprop ignores momentum=0\.95"):
        model.learned("a", torch.nn.Linear(2, 2), ForeachRMSprop, one_cycle)
    model.learned("a", torch.nn.Linear(2, 2), FusedAdam, one_cycle)


def test_a_copy_of_a_learner_leaves_its_trainer_environments_and_replay_where_they_are(monkeypatch):
    def fail(self, memo):
        raise AssertionError

    data = noise_data()
    model = TwoLosses(data.observation_space, data.action_space)
    fit(model, data)
    monkeypatch.setattr(type(data), "__deepcopy__", fail, raising=False)
    copy = deepcopy(model)
    monkeypatch.undo()
    fit(copy, noise_data())  # and calls its callbacks again
    assert copy.gradient_steps == model.gradient_steps > 0


@pytest.mark.parametrize(
    "hook", ["setup", "configure_callbacks", "on_fit_start", "on_save_checkpoint", "on_validation_epoch_end"]
)
def test_a_hook_that_leaves_out_what_a_learner_does_in_it_is_refused_by_name(hook):
    data = noise_data()
    kind = type("Mine", (TwoLosses,), {hook: lambda self, *_: None})
    with pytest.raises(UsageError, match=rf"^Mine\.{hook} takes the place of .*: call super\(\)\.{hook} in it"):
        kind(data.observation_space, data.action_space)
    with pytest.raises(UsageError, match=rf"^Mine\.{hook} takes the place of"):
        type("Theirs", (kind,), {})(data.observation_space, data.action_space)


def test_a_hook_that_calls_what_a_learner_does_in_it_may_do_more():
    class Mine(TwoLosses):
        @torch.no_grad()
        def setup(self, stage):
            super().setup(stage)
            self.stages = [stage]

    data = noise_data()
    model = Mine(data.observation_space, data.action_space)
    fit(model, data)
    assert model.stages == ["fit"]
    assert model.clock is data.clock
