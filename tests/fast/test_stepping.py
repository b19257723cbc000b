from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import LinearLR
from toys import TINY, make_trainer

from rl_lightning import A2C, RolloutDataModule
from rl_lightning.optim import FusedAdam


class Asked(Callback):
    """Wants to know of each step before it is taken."""

    def __init__(self):
        self.names = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.names.append(type(optimizer).__name__)


class AskedA2C(A2C):
    """A learner that wants to know."""

    def on_before_optimizer_step(self, optimizer):
        self.asked = [*getattr(self, "asked", []), type(optimizer).__name__]


SETTINGS = {
    "of ours": {},
    "of torch": {"policy_optimizer": partial(Adam, lr=0.01), "value_optimizer": partial(SGD, lr=0.1, momentum=0.5)},
    "with a schedule": {"policy_scheduler": partial(LinearLR, end_factor=0.1, total_iters=4)},
    "with hooks of their own": {"policy_optimizer": lambda params: with_a_hook(FusedAdam(params, lr=0.01))},
}


def with_a_hook(optimizer):
    def halve(optimizer, args, kwargs):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad *= 0.5

    optimizer.register_step_pre_hook(halve)
    return optimizer


def run(learner=A2C, callbacks=(), **settings):
    """Weights, all that counts steps, and rates of a short run."""
    torch.manual_seed(1)
    data = RolloutDataModule("toys:Spaces-v0", num_envs=2, rollout_steps=5, env_steps_per_batch=20, total_env_steps=60)
    model = learner(data.observation_space, data.action_space, network=TINY, compile=False, **settings)
    trainer = make_trainer(callbacks)
    trainer.fit(model, data)
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
    counted = trainer.global_step, progress.ready, progress.completed, model.gradient_steps
    rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return [*model.state_dict().values()], counted, rates, model


def assert_same_runs(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))
    assert one[1:3] == other[1:3]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_step_moves_and_counts_as_lightnings_own(settings, plain_ways):
    fast = run(**settings)
    with plain_ways():
        plain = run(**settings)
    assert_same_runs(fast, plain)
    assert fast[1] == (12, 12, 12, 6)
    if "policy_scheduler" in settings:
        assert fast[2][0] == pytest.approx(0.1 * 7e-4)


def test_whoever_wants_to_know_of_a_step_is_asked(plain_ways):
    callback = Asked()
    fast = run(AskedA2C, [callback])
    assert callback.names == fast[3].asked == ["ForeachRMSprop"] * 12
    alone = run(AskedA2C)
    assert alone[3].asked == ["ForeachRMSprop"] * 12
    with plain_ways():
        plain = run(AskedA2C, [Asked()])
    assert_same_runs(fast, plain)
    assert_same_runs(fast, alone)
