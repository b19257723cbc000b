"""A learning rate over the run's environment steps."""

import math
import warnings
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, SequentialLR
from toys import fit, make_trainer, noise_data, tiny_sac

from rl_lightning import UsageError
from rl_lightning.optim import EnvStepsLR
from rl_lightning.schedules import Clock

SHAPES = [
    ("constant", 0.25, [1.0, 1.0, 1.0, 1.0]),
    ("linear", 0.0, [1.0, 0.75, 0.5, 0.0]),
    ("linear", 0.2, [1.0, 0.8, 0.6, 0.2]),
    ("linear", 2.0, [1.0, 1.25, 1.5, 2.0]),
    ("cosine", 0.0, [1.0, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.0]),  # ½ (1 + cos(π p))
    ("cosine", 0.2, [1.0, 0.2 + 0.4 * (1 + math.sqrt(0.5)), 0.6, 0.2]),
]


def two_groups():
    """Rates of 0.1 and 0.01."""
    return SGD(
        [{"params": [nn.Parameter(torch.zeros(1))]}, {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.01}], 0.1
    )


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize(("schedule", "final_factor", "expected"), SHAPES)
@pytest.mark.parametrize("env_steps", [None, 400])
def test_the_rate_of_each_group_goes_from_its_own_to_its_share_at_the_end(schedule, final_factor, expected, env_steps):
    optimizer, clock = two_groups(), Clock(800)
    scheduler = EnvStepsLR(optimizer, schedule, final_factor, env_steps)
    assert rates(optimizer) == [0.1, 0.01]
    length = env_steps or 800
    for share, factor in zip((0.0, 0.25, 0.5, 1.0), expected, strict=True):
        clock.env_steps = int(share * length)
        scheduler.follow(clock)
        assert rates(optimizer) == scheduler.get_last_lr() == pytest.approx([0.1 * factor, 0.01 * factor], abs=1e-12)


def test_the_rate_stays_at_its_last_where_the_run_goes_on_beyond_env_steps():
    optimizer, clock = two_groups(), Clock(800)
    scheduler = EnvStepsLR(optimizer, "linear", 0.5, env_steps=100)
    for env_steps in (100, 101, 500, 800, 900):
        clock.env_steps = env_steps
        scheduler.follow(clock)
        assert rates(optimizer) == pytest.approx([0.05, 0.005])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schedule", "exponential"),
        ("final_factor", -0.1),
        ("final_factor", math.nan),
        ("env_steps", 0),
        ("env_steps", -5),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name_also_in_a_learner(key, value):
    message = f"scheduler.{key}={value!r} is not allowed: give "
    with pytest.raises(UsageError, match=f"^{message}"):
        EnvStepsLR(two_groups(), **{key: value})
    with pytest.raises(UsageError, match=f"^policy_scheduler is not allowed: {message}") as caught:
        sac_and_data(partial(EnvStepsLR, **{key: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda optimizer: SequentialLR(optimizer, [LinearLR(optimizer), EnvStepsLR(optimizer)], milestones=[3]),
        lambda optimizer: ChainedScheduler([EnvStepsLR(optimizer), LinearLR(optimizer)]),
    ],
    ids=["SequentialLR", "ChainedScheduler"],
)
def test_a_scheduler_that_counts_gradient_steps_around_it_is_refused(wrapped):
    message = r"^policy_scheduler=(SequentialLR|ChainedScheduler) is not allowed with EnvStepsLR in it: that follows"
    with pytest.raises(UsageError, match=message) as caught:
        sac_and_data(wrapped)
    assert "\n" not in str(caught.value)


# In runs


class RateSpy(Callback):
    """Environment steps and the rates of all optimizers, each time that a batch has started and at each step."""

    def __init__(self):
        self.steps: list[tuple[int, list[float]]] = []

    def on_gradient_step_end(self, trainer, pl_module):
        self.steps.append((pl_module.env_steps, [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]))


def sac_and_data(policy_scheduler, lr=0.01, **settings):
    """SAC's other two networks have schedules of their own, of gradient steps, and none."""
    data = noise_data(**{"total_env_steps": 60} | settings)
    model = tiny_sac(
        data.observation_space,
        data.action_space,
        policy_optimizer=partial(Adam, lr=lr),
        policy_scheduler=policy_scheduler,
        q_optimizer=partial(Adam, lr=0.05),
        q_scheduler=partial(LinearLR, start_factor=1.0, end_factor=0.0, total_iters=1_000),
        value_optimizer=partial(Adam, lr=0.025),
    )
    return model, data


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(("num_envs", "iterations"), [(1, 1), (2, 1), (1, 4), (2, 3)])
def test_the_rate_of_a_batch_is_that_of_the_environment_steps_at_its_start(schedule, num_envs, iterations):
    batch = num_envs * iterations
    model, data = sac_and_data(
        partial(EnvStepsLR, schedule=schedule, final_factor=0.2),
        num_envs=num_envs,
        env_steps_per_batch=batch,
        env_steps_per_epoch=24,
        total_env_steps=108,
        replay_ratio=1.0,
    )
    spy = RateSpy()
    fit(model, data, make_trainer([spy]))
    assert len(spy.steps) == 108 - 12
    for gradient_step, (env_steps, (value, q, policy)) in enumerate(spy.steps, start=1):
        begun = 12 + (env_steps - 12 - 1) // batch * batch  # after the 12 random steps
        share = begun / 108
        if schedule == "cosine":
            share = 0.5 * (1 - math.cos(math.pi * share))
        assert policy == pytest.approx(0.01 * (1 - 0.8 * share))
        assert q == pytest.approx(0.05 * (1 - gradient_step / 1_000))
        assert value == 0.025


def test_env_steps_end_a_schedule_before_the_run():
    model, data = sac_and_data(partial(EnvStepsLR, final_factor=0.5, env_steps=40))
    spy = RateSpy()
    fit(model, data, make_trainer([spy]))
    expected = [0.01 * (1 - 0.5 * min(1.0, begun / 40)) for begun in range(12, 60)]
    assert [policy for _, (_, _, policy) in spy.steps] == pytest.approx(expected)


def test_a_fit_after_a_fit_begins_with_the_whole_rate():
    model, data = sac_and_data(EnvStepsLR)
    for begins_at in (12, 0):  # the second has a filled buffer, and takes no random steps
        spy = RateSpy()
        fit(model, data, make_trainer([spy]))
        assert spy.steps[0][1][2] == pytest.approx(0.01 * (1 - begins_at / 60))
        assert spy.steps[-1][1][2] == pytest.approx(0.01 * (1 - 59 / 60))


@pytest.fixture
def first_run(tmp_path):
    """The last checkpoint of a run of 60 environment steps, at the end of its linear schedule."""
    model, data = sac_and_data(EnvStepsLR)
    fit(model, data, make_trainer([ModelCheckpoint(tmp_path, filename="last")]))
    return tmp_path / "last.ckpt"


def resumed(path, scheduler, total_env_steps, lr=0.01):
    model, data = sac_and_data(scheduler, lr, total_env_steps=total_env_steps)
    spy = RateSpy()
    before = {name: value.clone() for name, value in torch.load(path, weights_only=True)["state_dict"].items()}
    trainer = make_trainer([spy])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*has come to rate 0")
        trainer.fit(model, data, ckpt_path=path)
    moved = [
        name for name, value in model.policy.state_dict().items() if not torch.equal(value, before[f"policy.{name}"])
    ]
    assert len(moved) == len(model.policy.state_dict())
    return [(env_steps, policy) for env_steps, (_, _, policy) in spy.steps]


def test_a_run_that_goes_on_to_twice_its_length_has_the_rate_of_its_new_length(first_run):
    rates_at = resumed(first_run, EnvStepsLR, total_env_steps=120)
    assert [env_steps for env_steps, _ in rates_at] == list(range(61, 121))
    assert [rate for _, rate in rates_at] == pytest.approx([0.01 * (1 - begun / 120) for begun in range(60, 120)])


def test_settings_given_now_win_over_the_checkpoints(first_run):
    scheduler = partial(EnvStepsLR, schedule="cosine", final_factor=0.5)
    rates_at = resumed(first_run, scheduler, total_env_steps=80, lr=0.02)
    shares = [0.5 * (1 - math.cos(math.pi * begun / 80)) for begun in range(60, 80)]
    assert [rate for _, rate in rates_at] == pytest.approx([0.02 * (1 - 0.5 * share) for share in shares])


def test_a_schedule_that_has_ended_goes_on_where_env_steps_are_more_now(tmp_path):
    model, data = sac_and_data(partial(EnvStepsLR, env_steps=30))
    fit(model, data, make_trainer([ModelCheckpoint(tmp_path, filename="last")]))
    rates_at = resumed(tmp_path / "last.ckpt", partial(EnvStepsLR, env_steps=240), total_env_steps=120)
    assert [rate for _, rate in rates_at] == pytest.approx([0.01 * (1 - begun / 240) for begun in range(60, 120)])


def test_a_schedule_that_has_ended_and_stays_so_is_told(tmp_path):
    model, data = sac_and_data(partial(EnvStepsLR, env_steps=30))
    fit(model, data, make_trainer([ModelCheckpoint(tmp_path, filename="last")]))
    model, data = sac_and_data(partial(EnvStepsLR, env_steps=30), total_env_steps=70)
    with pytest.warns(UserWarning, match="policy_scheduler=EnvStepsLR has come to rate 0, so policy learns no more"):
        make_trainer().fit(model, data, ckpt_path=tmp_path / "last.ckpt")
