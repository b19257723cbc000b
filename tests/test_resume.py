"""What a checkpoint holds, and what a run that continues or starts from one does with it."""

import contextlib
import math
import pickle
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiplicativeLR,
    OneCycleLR,
    SequentialLR,
)
from website import Sentinel, Website

from rl_lightning import MLP, SAC, Algorithm, DiscreteSAC, EnvironmentInteraction, ReplayDataModule, SACv2, UsageError
from rl_lightning.optim import FusedAdam

TINY = partial(MLP, hidden_sizes=(8,))


def make(total_env_steps: int, lr: float = 1e-3, **settings: object) -> tuple[SAC, ReplayDataModule]:
    seed_everything(3, verbose=False)
    data = ReplayDataModule(
        "Pendulum-v1",
        total_env_steps=total_env_steps,
        env_steps_per_epoch=100,
        learning_starts=100,
        batch_size=8,
        eval_episodes=1,
        buffer_size=1_000,
    )
    optimizer = partial(Adam, lr=lr)
    given = {f"{name}_optimizer": optimizer for name in ("value", "q", "policy")}
    given |= {"policy_scheduler": partial(CosineAnnealingLR, T_max=1_000)} | settings
    model = SAC(data.observation_space, data.action_space, network=TINY, compile=False, **given)
    return model, data


def fit(
    folder: Path,
    model: Algorithm,
    data: ReplayDataModule,
    ckpt_path: Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[ModelCheckpoint(folder, filename="last", enable_version_counter=False), *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        max_epochs=-1,
    )
    trainer.fit(model, data, ckpt_path=ckpt_path)
    return trainer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    trainer = fit(folder, *make(total_env_steps=300))
    trainer.save_checkpoint(folder / "weights.ckpt", weights_only=True)
    return folder / "last.ckpt"


def test_a_datamodule_whose_class_has_another_name_now_goes_on_with_the_replay_buffer(
    checkpoint: Path, tmp_path: Path
) -> None:
    class Mine(ReplayDataModule):
        pass

    model, data = make(400)
    data.__class__ = Mine
    fit(tmp_path, model, data, ckpt_path=checkpoint)
    assert len(data.buffer) == 400
    assert model.gradient_steps == 300


def test_a_checkpoint_holds_tensors_and_primitives_only(checkpoint: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["rl_lightning"]["algorithm"] == "SAC"
    assert saved["rl_lightning"]["env_steps"] == 300
    assert saved["callbacks"]["PolyakAveraging"] == {"gradient_steps": 200}
    assert saved["ReplayDataModule"]["buffer"]["filled_rows"] == 300


def test_a_resumed_run_continues_counters_buffer_and_schedule_without_a_burst(checkpoint: Path, tmp_path: Path) -> None:
    model, data = make(total_env_steps=350)
    updates_at_step = []
    original = model.gradients
    model.gradients = lambda batch: updates_at_step.append(model.env_steps) or original(batch)  # type: ignore[method-assign]
    trainer = fit(tmp_path, model, data, checkpoint)

    assert updates_at_step == list(range(301, 351))  # one for each new environment step, none to catch up
    assert model.env_steps == 350
    assert trainer.global_step == 3 * 250
    first = make(total_env_steps=300)[1]
    first.setup("fit")
    first.load_state_dict(torch.load(checkpoint, weights_only=True)["ReplayDataModule"])
    old = first.buffer.storage._asdict()
    for name, field in data.buffer.storage._asdict().items():
        torch.testing.assert_close(field[:300], old[name][:300], rtol=0, atol=0)
    assert len(data.buffer) == 350

    straight, straight_data = make(total_env_steps=350)
    straight_trainer = fit(tmp_path / "straight", straight, straight_data)
    for resumed, uninterrupted in zip(trainer.optimizers, straight_trainer.optimizers, strict=True):
        assert resumed.param_groups[0]["lr"] == uninterrupted.param_groups[0]["lr"]
        steps = [state["step"].item() for state in resumed.state.values()]
        assert steps == [250.0] * len(steps)


def test_a_resumed_run_starts_from_the_saved_weights_moments_and_generators(checkpoint: Path, tmp_path: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    model, data = make(total_env_steps=301)
    seen = {}
    original = model.training_step

    def before_learning(batch: object, batch_idx: int) -> None:
        seen["weights"] = {name: value.clone() for name, value in model.state_dict().items()}
        seen["moments"] = [o.optimizer.state_dict()["state"][0]["exp_avg"].clone() for o in model.optimizers()]
        original(batch, batch_idx)

    def before_acting(obs: torch.Tensor, deterministic: bool = False) -> torch.Tensor:
        if not deterministic:
            seen.setdefault("rng", torch.get_rng_state())
        return act(obs, deterministic)

    act = model.act
    model.act = before_acting  # type: ignore[method-assign]
    model.training_step = before_learning  # type: ignore[method-assign]
    fit(tmp_path, model, data, checkpoint)
    for name, value in saved["state_dict"].items():
        torch.testing.assert_close(seen["weights"][name], value, rtol=0, atol=0)
    for moment, optimizer in zip(seen["moments"], saved["optimizer_states"], strict=True):
        torch.testing.assert_close(moment, optimizer["state"][0]["exp_avg"], rtol=0, atol=0)
    torch.testing.assert_close(seen["rng"], saved["environment_interaction"]["processes"][0]["random_numbers"]["cpu"])


def test_a_resumed_run_counts_on_with_a_users_own_interaction(checkpoint: Path) -> None:
    class Mine(EnvironmentInteraction):
        pass

    model, data = make(total_env_steps=301)
    mine = Mine()
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[mine], max_epochs=-1, enable_checkpointing=False)
    trainer.fit(model, data, ckpt_path=checkpoint)
    assert data.clock.env_steps == 301
    assert model.gradient_steps == 201


def test_new_transitions_of_a_resumed_run_get_the_maximum_priority_of_the_first(tmp_path: Path) -> None:
    def run(total_env_steps: int, ckpt_path: Path | None = None) -> ReplayDataModule:
        model, _ = make(total_env_steps)
        data = ReplayDataModule(
            "Pendulum-v1",
            total_env_steps=total_env_steps,
            learning_starts=100,
            train_freq=50,
            replay_ratio=0.02,  # one gradient step after 50 environment steps
            batch_size=8,
            eval_episodes=1,
            buffer_size=1_000,
            priority_alpha=0.5,
        )
        fit(tmp_path, model, data, ckpt_path)
        return data

    run(200)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["ReplayDataModule"]["buffer"]
    largest = saved["priorities"]["largest"]
    assert largest > 2.0
    added = run(250, tmp_path / "last.ckpt").buffer.state_dict()["priorities"]["powers"][200:]
    assert (added == largest**0.5).sum() >= 50 - 8  # the rest has been learned from


def test_a_learning_rate_given_now_wins_over_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    trainer = fit(tmp_path, *make(total_env_steps=301, lr=7e-4), checkpoint)
    value, q, policy = trainer.optimizers
    assert value.param_groups[0]["lr"] == q.param_groups[0]["lr"] == 7e-4
    cosine = (1 + torch.cos(torch.tensor(torch.pi * 201 / 1_000)).item()) / 2  # 201 gradient steps into the schedule
    assert policy.param_groups[0]["lr"] == pytest.approx(7e-4 * cosine, rel=1e-5)


def test_a_schedule_given_now_wins_over_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    model, data = make(total_env_steps=301, policy_scheduler=partial(CosineAnnealingLR, T_max=500))
    trainer = fit(tmp_path, model, data, checkpoint)
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert scheduler.T_max == 500
    assert scheduler.last_epoch == 201


def test_a_schedule_left_out_now_leaves_the_rate_given_now(checkpoint: Path, tmp_path: Path) -> None:
    model, data = make(total_env_steps=301, lr=7e-4, policy_scheduler=None)
    trainer = fit(tmp_path, model, data, checkpoint)
    assert [o.param_groups[0]["lr"] for o in trainer.optimizers] == [7e-4] * 3


def test_a_rate_of_zero_resumes(checkpoint: Path, tmp_path: Path) -> None:
    trainer = fit(tmp_path, *make(total_env_steps=301, lr=0.0), checkpoint)
    assert [o.param_groups[0]["lr"] for o in trainer.optimizers] == [0.0] * 3


class Rates(Callback):
    """Notes each optimizer's rate after every gradient step."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_gradient_step_end(self, trainer: Trainer, pl_module: SAC) -> None:
        self.seen.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])


class Staircase(LRScheduler):
    """A user's own: halves the rate whenever its own countdown has come to an end."""

    def __init__(self, optimizer: torch.optim.Optimizer, every: int) -> None:
        self.every, self.left, self.halvings = every, every, 0
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [rate * 0.5**self.halvings for rate in self.base_lrs]

    def step(self, epoch: int | None = None) -> None:
        self.left -= 1
        if self.left == 0:
            self.left, self.halvings = self.every, self.halvings + 1
        super().step(epoch)


class Wave:
    """A factor with a counter of its own, which LambdaLR saves because it is an object."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, step: int) -> float:
        self.calls += 1
        return 1.0 / (1.0 + self.calls % 7)


def sequence(optimizer: torch.optim.Optimizer) -> SequentialLR:
    parts = [LinearLR(optimizer, 0.1, 1.0, total_iters=30), CosineAnnealingLR(optimizer, T_max=150)]
    return SequentialLR(optimizer, parts, milestones=[30])


SCHEDULES = {
    "cosine": partial(CosineAnnealingLR, T_max=170),
    "linear": partial(LinearLR, start_factor=1.0, end_factor=0.1, total_iters=150),
    "warm restarts": partial(CosineAnnealingWarmRestarts, T_0=30, T_mult=2),
    "lambda": partial(LambdaLR, lr_lambda=lambda step: 0.99**step),
    "lambda object": lambda optimizer: LambdaLR(optimizer, Wave()),
    "multiplicative": partial(MultiplicativeLR, lr_lambda=lambda step: 0.99),
    "cyclic": partial(CyclicLR, base_lr=1e-4, max_lr=1e-3, step_size_up=37, cycle_momentum=False),
    "sequence": sequence,
    "a user's own": partial(Staircase, every=30),
}


def rates(total_env_steps: int, folder: Path, ckpt_path: Path | None = None, **settings: object) -> list[list[float]]:
    seen = Rates()
    fit(folder, *make(total_env_steps, **settings), ckpt_path, [seen])
    return seen.seen


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_a_schedule_goes_on_where_it_was(schedule: object, tmp_path: Path) -> None:
    settings = {"policy_scheduler": schedule}
    straight = rates(260, tmp_path / "straight", **settings)
    first = rates(180, tmp_path / "first", **settings)
    second = rates(260, tmp_path / "second", tmp_path / "first" / "last.ckpt", **settings)
    assert len(first) == len(second) == 80
    assert len({rate for _, _, rate in straight}) > 5
    for resumed, uninterrupted in zip([*first, *second], straight, strict=True):
        assert resumed == pytest.approx(uninterrupted, rel=1e-6)


class Momenta(Callback):
    """Notes the momentum that each of the policy's gradient steps is taken with."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: SAC, batch: Any, batch_idx: int) -> None:
        [group] = trainer.optimizers[2].param_groups
        self.seen.append(group["betas"][0] if "betas" in group else group["momentum"])


@pytest.mark.parametrize("optimizer", [partial(Adam, lr=1e-3), partial(SGD, lr=1e-3, momentum=0.9)])
@pytest.mark.parametrize(
    "schedule",
    [
        partial(OneCycleLR, max_lr=1e-3, total_steps=200),
        partial(CyclicLR, base_lr=1e-4, max_lr=1e-3, step_size_up=37),
    ],
)
def test_a_momentum_that_a_schedule_moves_goes_on_where_it_was(
    schedule: object, optimizer: object, tmp_path: Path
) -> None:
    settings = {"policy_scheduler": schedule, "policy_optimizer": optimizer}
    straight, first, second = Momenta(), Momenta(), Momenta()
    fit(tmp_path / "straight", *make(260, **settings), callbacks=[straight])
    fit(tmp_path / "first", *make(180, **settings), callbacks=[first])
    fit(tmp_path / "second", *make(260, **settings), tmp_path / "first" / "last.ckpt", [second])
    assert len(set(straight.seen)) > 30
    assert [*first.seen, *second.seen] == straight.seen


def test_a_schedule_that_is_added_on_resume_takes_no_others_counter(checkpoint: Path, tmp_path: Path) -> None:
    """The value's optimizer comes before the policy's, whose schedule is in the checkpoint."""
    cosine = partial(CosineAnnealingLR, T_max=1_000)
    seen = rates(301, tmp_path, checkpoint, value_scheduler=cosine)
    value, q, policy = seen[-1]
    of_step = [1e-3 * (1 + math.cos(math.pi * step / 1_000)) / 2 for step in (1, 201)]
    assert [value, q, policy] == pytest.approx([of_step[0], 1e-3, of_step[1]], rel=1e-5)


def test_a_schedule_of_another_kind_begins_anew_and_says_so(checkpoint: Path, tmp_path: Path) -> None:
    linear = partial(LinearLR, start_factor=0.5, end_factor=1.0, total_iters=10)
    with pytest.warns(
        UserWarning, match=r"policy_scheduler was .*CosineAnnealingLR in the checkpoint, is .*LinearLR now"
    ):
        seen = rates(301, tmp_path, checkpoint, policy_scheduler=linear)
    assert seen[0][2] == pytest.approx(1e-3 * 0.55)


def test_an_optimizer_of_another_kind_begins_anew_and_says_so(checkpoint: Path, tmp_path: Path) -> None:
    model, data = make(301, q_optimizer=partial(SGD, lr=0.1, momentum=0.9))
    with pytest.warns(UserWarning, match=r"q_optimizer was .*Adam in the checkpoint, is .*SGD now: it begins anew"):
        trainer = fit(tmp_path, model, data, checkpoint)
    value, q, _ = trainer.optimizers
    assert {state["step"].item() for state in value.state.values()} == {201.0}
    assert all("momentum_buffer" in state for state in q.state.values())


def test_our_adam_goes_on_from_torchs(checkpoint: Path, tmp_path: Path) -> None:
    trainer = fit(tmp_path, *make(301, q_optimizer=partial(FusedAdam, lr=1e-3)), checkpoint)
    assert {state["step"].item() for state in trainer.optimizers[1].state.values()} == {201.0}


def test_moments_are_taken_over_by_name_when_groups_change(checkpoint: Path, tmp_path: Path) -> None:
    """The checkpoint has one group; this run has two, biases first, each with a rate of its own."""

    def two_groups(params: Iterable[torch.nn.Parameter]) -> Adam:
        params = list(params)
        biases, weights = [p for p in params if p.ndim == 1], [p for p in params if p.ndim > 1]
        return Adam([{"params": biases, "lr": 1e-5}, {"params": weights}], lr=1e-4)

    model, data = make(301, value_optimizer=two_groups)
    seen = {}

    class Start(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: SAC) -> None:
            state = trainer.optimizers[0].state
            seen.update({name: state[p]["exp_avg"].clone() for name, p in pl_module.value.named_parameters()})
            seen["rates"] = [group["lr"] for group in trainer.optimizers[0].param_groups]

    fit(tmp_path, model, data, checkpoint, [Start()])
    assert seen.pop("rates") == [1e-5, 1e-4]
    saved = torch.load(checkpoint, weights_only=True)["optimizer_states"][0]["state"]
    names = [name for name, _ in model.value.named_parameters()]
    assert [*seen] == names
    for index, name in enumerate(names):
        torch.testing.assert_close(seen[name], saved[index]["exp_avg"], rtol=0, atol=0)


def test_a_schedule_that_has_ended_at_zero_is_told_of_on_resume(tmp_path: Path) -> None:
    to_zero = {"q_scheduler": partial(LinearLR, start_factor=1.0, end_factor=0.0, total_iters=50)}
    fit(tmp_path, *make(180, **to_zero))
    model, data = make(260, **to_zero)
    with pytest.warns(UserWarning, match=r"q_scheduler=LinearLR has come to rate 0, so q learns no more: .*EnvStepsLR"):
        fit(tmp_path / "second", model, data, tmp_path / "last.ckpt")


@pytest.mark.parametrize("learner", [SACv2, DiscreteSAC])
@pytest.mark.parametrize(("given", "expected"), [(None, 0.3), (0.05, 0.05)], ids=["none given", "given"])
def test_a_temperature_that_is_given_wins_over_the_one_that_is_loaded(
    learner: type, given: float | None, expected: float, tmp_path: Path
) -> None:
    data = ReplayDataModule(
        "Pendulum-v1" if learner is SACv2 else "CartPole-v1", total_env_steps=12, learning_starts=10, batch_size=8
    )
    make_model = partial(learner, data.observation_space, data.action_space, network=TINY, compile=False)
    fit(tmp_path, make_model(ent_coef=0.3, ent_coef_optimizer=None), data)
    model = make_model(ent_coef=given)
    other = {name: value.clone() for name, value in model.state_dict().items() if "policy" in name}
    model.load_weights(tmp_path / "last.ckpt")
    assert model.temperature().item() == pytest.approx(expected, rel=1e-6)
    assert all(not torch.equal(value, model.state_dict()[name]) for name, value in other.items() if "weight" in name)


def test_loading_weights_starts_anew_from_the_weights(checkpoint: Path, tmp_path: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    model, data = make(total_env_steps=150, lr=5e-4)
    model.load_weights(checkpoint)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, saved[name], rtol=0, atol=0)
    trainer = fit(tmp_path, model, data)
    assert model.env_steps == 150
    assert len(data.buffer) == 150
    assert trainer.optimizers[0].param_groups[0]["lr"] == 5e-4
    assert next(iter(trainer.optimizers[0].state.values()))["step"].item() == 50


def test_loading_weights_works_on_another_environment_with_the_same_spaces(checkpoint: Path) -> None:
    heavier = ReplayDataModule("Pendulum-v1", env_kwargs={"g": 15}, total_env_steps=150, learning_starts=100)
    model = SAC(heavier.observation_space, heavier.action_space, network=TINY, compile=False)
    model.load_weights(checkpoint)
    assert model.state_dict().keys() == torch.load(checkpoint, weights_only=True)["state_dict"].keys()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (
            lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
            "is no whole checkpoint|cannot be read",
        ),
        (lambda path: path.write_bytes(b"not a checkpoint"), "is no whole checkpoint"),
        (lambda path: torch.save({"state_dict": {}}, path), "is not one of rl_lightning's"),
        (lambda path: torch.save({"model": Path}, path), "cannot be read"),
    ],
    ids=["missing", "truncated", "garbage", "somebody else's", "code"],
)
def test_a_checkpoint_that_cannot_be_used_is_refused_by_name(
    checkpoint: Path, tmp_path: Path, spoil: object, message: str
) -> None:
    path = tmp_path / "spoiled.ckpt"
    path.write_bytes(checkpoint.read_bytes())
    spoil(path)  # type: ignore[operator]
    with pytest.raises(UsageError, match=message) as refusal:
        make(total_env_steps=150)[0].load_weights(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_weights_behind_a_url_are_loaded(checkpoint: Path, website: Website) -> None:
    (website.folder / "last.ckpt").write_bytes(checkpoint.read_bytes())
    model, _ = make(total_env_steps=150)
    model.load_weights(f"{website.url}/last.ckpt")
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, saved[name], rtol=0, atol=0)
    assert website.asked == ["/last.ckpt"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nowhere.ckpt", "cannot be fetched: .*404.*; check the URL"),
        ("/garbage.ckpt", "is no whole checkpoint|cannot be read"),
        ("/half.ckpt", "is no whole checkpoint|cannot be read"),
        ("/with a space.ckpt", "cannot be fetched: .*; check the URL"),
        ("/ü.ckpt", "cannot be fetched: .*; check the URL"),
        ("x/last.ckpt", "cannot be fetched: .*; check the URL"),  # the port is no number
    ],
)
def test_a_url_without_a_checkpoint_is_refused_by_name(
    checkpoint: Path, website: Website, path: str, message: str
) -> None:
    (website.folder / "garbage.ckpt").write_bytes(b"not a checkpoint")
    (website.folder / "half.ckpt").write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    with pytest.raises(UsageError, match=message) as refusal:
        make(total_env_steps=150)[0].load_weights(website.url + path)
    assert website.url + path in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_server_that_does_not_answer_as_one_is_refused_by_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/last.ckpt"

        def greet_as_ssh_does() -> None:
            with server.accept()[0] as connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        thread = Thread(target=greet_as_ssh_does)
        thread.start()
        with pytest.raises(UsageError, match=r"cannot be fetched: .*; check the URL") as refusal:
            make(total_env_steps=150)[0].load_weights(url)
        thread.join()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "save", [torch.save, lambda payload, path: path.write_bytes(pickle.dumps(payload))], ids=["torch", "pickle"]
)
def test_code_behind_a_url_is_refused_and_not_run(
    checkpoint: Path, website: Website, save: Callable[[Any, Path], object]
) -> None:
    path, made = website.folder / "code.ckpt", website.folder / "sentinel"
    save({**torch.load(checkpoint, weights_only=True), "hyper_parameters": Sentinel(made)}, path)
    with pytest.raises(
        UsageError, match=r"cannot be read: .* holds more than tensors and primitives|is no whole checkpoint"
    ) as refusal:
        make(total_env_steps=150)[0].load_weights(f"{website.url}/code.ckpt")
    assert "\n" not in str(refusal.value)
    assert not made.exists()
    with contextlib.suppress(RuntimeError):  # torch finds after it has run that a plain pickle is not of its making
        torch.load(path, weights_only=False)
    assert made.exists(), "it would have been run"


def test_a_checkpoint_of_other_spaces_or_networks_is_refused(checkpoint: Path) -> None:
    data = ReplayDataModule("MountainCarContinuous-v0", total_env_steps=150, learning_starts=100)
    with pytest.raises(UsageError, match=r"is of observation space Box\(3,\) float32, this run has Box\(2,\) float32"):
        SAC(data.observation_space, data.action_space, network=TINY, compile=False).load_weights(checkpoint)
    data = ReplayDataModule("Pendulum-v1", total_env_steps=150, learning_starts=100)
    with pytest.raises(UsageError, match="holds other networks"):
        SAC(data.observation_space, data.action_space, compile=False).load_weights(checkpoint)


@pytest.mark.parametrize("name", ["last.ckpt", "weights.ckpt"])
def test_weights_load_through_lightnings_own_load_from_checkpoint(checkpoint: Path, name: str) -> None:
    _, data = make(total_env_steps=150)
    model = SAC.load_from_checkpoint(
        checkpoint.with_name(name),
        observation_space=data.observation_space,
        action_space=data.action_space,
        network=TINY,
    )
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    torch.testing.assert_close(model.state_dict()["policy.body.0.weight"], saved["policy.body.0.weight"])


def evaluator() -> Trainer:
    return Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_weights_alone_are_evaluated_as_the_whole_checkpoint_is(checkpoint: Path, stage: str) -> None:
    results = []
    for path in (checkpoint, checkpoint.with_name("weights.ckpt")):
        model, data = make(total_env_steps=150)
        results += getattr(evaluator(), stage)(model, datamodule=data, ckpt_path=path, verbose=False)
    assert results[0]["env_steps"] == 300
    assert results[0] == results[1]


def test_weights_alone_are_recorded_as_the_whole_checkpoint_is(checkpoint: Path) -> None:
    recorded = []
    for path in (checkpoint, checkpoint.with_name("weights.ckpt")):
        [[episode]] = evaluator().predict(*make(total_env_steps=150), ckpt_path=path)
        recorded.append(episode.action)
    torch.testing.assert_close(*recorded, rtol=0, atol=0)


def test_weights_alone_are_not_resumed(checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint.with_name("weights.ckpt")
    with pytest.raises(UsageError) as refusal:
        fit(tmp_path, *make(total_env_steps=350), path)
    assert str(refusal.value) == (
        f"ckpt_path={str(path)!r} is not allowed: it holds weights only; give it as init_from"
    )
