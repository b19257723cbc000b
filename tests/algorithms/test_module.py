import warnings

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import SGD
from toys import GradientSteps, counter_data, fit, make_trainer, noise_data, tiny_sac

from rl_lightning import Algorithm, EnvironmentInteraction, PolyakAveraging, UsageError
from rl_lightning.fast.compilation import compiled_or_eager


def sgd(params):
    return SGD(params, lr=0.5)


class TwoLosses(Algorithm):
    """Two parameters, two optimizers, constant gradients; the smallest learner there is."""

    gamma = 0.9  # of the discounts in what replay gives it

    def __init__(self, observation_space, action_space, optimizers=2):
        super().__init__(observation_space, action_space, compile=False)
        self.a, self.b = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
        self.count = optimizers
        self.batches = []

    def act(self, obs, deterministic=False):
        return torch.zeros(len(obs), 2)

    def gradients(self, batch):
        self.batches.append(batch)
        gradients = [(torch.full((1, 1), 1.0),), (torch.full((1, 1), 10.0),)]
        return {"train/loss": batch.reward.mean()}, gradients[: self.count]

    def configure_optimizers(self):
        return [sgd(self.a.parameters()), sgd(self.b.parameters())][: self.count]


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


def test_gradients_that_do_not_match_the_optimizers_are_an_error():
    data = noise_data()
    model = TwoLosses(data.observation_space, data.action_space)
    model.gradients = lambda batch: ({}, [(torch.ones(1, 1),)])
    with pytest.raises(ValueError, match="zip"):
        fit(model, data)


def test_a_model_brings_its_callbacks_and_trains_in_three_lines():
    data = noise_data()
    model = tiny_sac(data.observation_space, data.action_space)
    trainer = fit(model, data)
    kinds = [type(callback) for callback in trainer.callbacks]
    assert kinds.count(EnvironmentInteraction) == kinds.count(PolyakAveraging) == 1
    assert model.env_steps == 20


def test_losses_are_those_of_the_latest_gradient_step():
    data = noise_data(total_env_steps=15)
    model = TwoLosses(data.observation_space, data.action_space)
    fit(model, data)
    assert model.losses["train/loss"] == model.batches[-1].reward.mean()


def test_returns_in_training_and_evaluation_can_be_monitored():
    data = counter_data(env_steps_per_epoch=20, eval_episodes=2)
    trainer = fit(tiny_sac(data.observation_space, data.action_space), data, make_trainer(validate=True))
    assert {"train/return", "val/return_mean", "val/return_std", "val/episode_length_mean"} <= {
        *trainer.callback_metrics
    }


def test_float16_with_loss_scaling_is_refused(monkeypatch):
    data = noise_data()
    model = tiny_sac(data.observation_space, data.action_space)
    # without a GPU, Lightning itself turns 16-mixed into bf16-mixed
    monkeypatch.setattr(Trainer, "precision", property(lambda self: "16-mixed"))
    with pytest.raises(UsageError, match=r"precision='16-mixed' is not allowed: .*bf16-mixed"):
        fit(model, data)


@pytest.mark.parametrize("supported", [False, True])
def test_bf16_that_the_processor_has_to_emulate_is_told_of_once(monkeypatch, supported):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
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
        return {"train/loss": batch.reward.mean()}, [(torch.full((1, 1), -2.0),), (torch.zeros(1, 1),)]


def test_every_gradient_step_of_a_training_batch_sees_the_weights_of_the_last_in_bf16():
    data = noise_data(replay_ratio=3.0, total_env_steps=16, env_steps_per_batch=2)
    model = OwnOutput(data.observation_space, data.action_space)
    torch.nn.init.constant_(model.a.weight, 0.0)
    fit(model, data, make_trainer(precision="bf16-mixed"))
    assert model.batches == [float(step) for step in range(12)]
