"""What a checkpoint holds, and what a run that continues or starts from one does with it."""

import contextlib
import pickle
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR
from website import Sentinel, Website

from rl_lightning import MLP, SAC, ReplayDataModule, UsageError

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
    model = SAC(
        data.observation_space,
        data.action_space,
        network=TINY,
        value_optimizer=optimizer,
        q_optimizer=optimizer,
        policy_optimizer=optimizer,
        policy_scheduler=partial(CosineAnnealingLR, T_max=1_000),
        compile=False,
        **settings,
    )
    return model, data


def fit(folder: Path, model: SAC, data: ReplayDataModule, ckpt_path: Path | None = None) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[ModelCheckpoint(folder, filename="last", enable_version_counter=False)],
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
    fit(folder, *make(total_env_steps=300))
    return folder / "last.ckpt"


def test_a_checkpoint_holds_tensors_and_primitives_only(checkpoint: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["rl_lightning"]["algorithm"] == "SAC"
    assert saved["callbacks"]["EnvironmentInteraction"]["env_steps"] == 300
    assert saved["callbacks"]["PolyakAveraging"] == {"gradient_steps": 200}
    assert len(saved["ReplayDataModule"]["buffer"]["storage"]["reward"]) == 300


def test_a_resumed_run_continues_counters_buffer_and_schedule_without_a_burst(checkpoint: Path, tmp_path: Path) -> None:
    model, data = make(total_env_steps=350)
    updates_at_step = []
    original = model.gradients
    model.gradients = lambda batch: updates_at_step.append(model.env_steps) or original(batch)  # type: ignore[method-assign]
    trainer = fit(tmp_path, model, data, checkpoint)

    assert updates_at_step == list(range(301, 351))  # one for each new environment step, none to catch up
    assert model.env_steps == 350
    assert trainer.global_step == 3 * 250
    old = torch.load(checkpoint, weights_only=True)["ReplayDataModule"]["buffer"]["storage"]
    for name, field in data.buffer.storage._asdict().items():
        kept = 299 if name == "truncated" else 300  # the episode under way is cut off
        torch.testing.assert_close(field[:kept], old[name][:kept], rtol=0, atol=0)
    assert data.buffer.storage.truncated[299]
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
    torch.testing.assert_close(seen["rng"], saved["callbacks"]["EnvironmentInteraction"]["rng"]["cpu"])


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
    model, data = make(total_env_steps=301)
    model.policy_scheduler = partial(CosineAnnealingLR, T_max=500)
    trainer = fit(tmp_path, model, data, checkpoint)
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert scheduler.T_max == 500
    assert scheduler.last_epoch == 201


def test_a_schedule_left_out_now_leaves_the_rate_given_now(checkpoint: Path, tmp_path: Path) -> None:
    model, data = make(total_env_steps=301, lr=7e-4)
    model.policy_scheduler = None
    trainer = fit(tmp_path, model, data, checkpoint)
    assert [o.param_groups[0]["lr"] for o in trainer.optimizers] == [7e-4] * 3


def test_a_rate_of_zero_resumes(checkpoint: Path, tmp_path: Path) -> None:
    trainer = fit(tmp_path, *make(total_env_steps=301, lr=0.0), checkpoint)
    assert [o.param_groups[0]["lr"] for o in trainer.optimizers] == [0.0] * 3


def test_init_from_starts_anew_from_the_weights(checkpoint: Path, tmp_path: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    model, data = make(total_env_steps=150, lr=5e-4, init_from=checkpoint)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, saved[name], rtol=0, atol=0)
    trainer = fit(tmp_path, model, data)
    assert model.env_steps == 150
    assert len(data.buffer) == 150
    assert trainer.optimizers[0].param_groups[0]["lr"] == 5e-4
    assert next(iter(trainer.optimizers[0].state.values()))["step"].item() == 50


def test_init_from_works_on_another_environment_with_the_same_spaces(checkpoint: Path) -> None:
    heavier = ReplayDataModule("Pendulum-v1", env_kwargs={"g": 15}, total_env_steps=150, learning_starts=100)
    model = SAC(heavier.observation_space, heavier.action_space, network=TINY, init_from=checkpoint, compile=False)
    assert model.state_dict().keys() == torch.load(checkpoint, weights_only=True)["state_dict"].keys()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (
            lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
            "cannot be read: it is truncated",
        ),
        (lambda path: path.write_bytes(b"not a checkpoint"), "cannot be read"),
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
        make(total_env_steps=150, init_from=path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_init_from_takes_the_weights_behind_a_url(checkpoint: Path, website: Website) -> None:
    (website.folder / "last.ckpt").write_bytes(checkpoint.read_bytes())
    model, _ = make(total_env_steps=150, init_from=f"{website.url}/last.ckpt")
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, saved[name], rtol=0, atol=0)
    assert website.asked == ["/last.ckpt"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nowhere.ckpt", "cannot be fetched: .*404.*; check the URL"),
        ("/garbage.ckpt", "cannot be read: it is truncated"),
        ("/half.ckpt", "cannot be read: it is truncated"),
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
        make(total_env_steps=150, init_from=website.url + path)
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
            make(total_env_steps=150, init_from=url)
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
    with pytest.raises(UsageError, match=r"cannot be read: .* holds more than tensors and primitives") as refusal:
        make(total_env_steps=150, init_from=f"{website.url}/code.ckpt")
    assert "\n" not in str(refusal.value)
    assert not made.exists()
    with contextlib.suppress(RuntimeError):  # torch finds after it has run that a plain pickle is not of its making
        torch.load(path, weights_only=False)
    assert made.exists(), "it would have been run"


def test_a_checkpoint_of_other_spaces_or_networks_is_refused(checkpoint: Path) -> None:
    data = ReplayDataModule("MountainCarContinuous-v0", total_env_steps=150, learning_starts=100)
    with pytest.raises(UsageError, match=r"is of observation space Box\(3,\) float32, this run has Box\(2,\) float32"):
        SAC(data.observation_space, data.action_space, network=TINY, init_from=checkpoint, compile=False)
    data = ReplayDataModule("Pendulum-v1", total_env_steps=150, learning_starts=100)
    with pytest.raises(UsageError, match="holds other networks"):
        SAC(data.observation_space, data.action_space, init_from=checkpoint, compile=False)


def test_weights_load_through_lightnings_own_load_from_checkpoint(checkpoint: Path) -> None:
    _, data = make(total_env_steps=150)
    model = SAC.load_from_checkpoint(
        checkpoint, observation_space=data.observation_space, action_space=data.action_space, network=TINY
    )
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    torch.testing.assert_close(model.state_dict()["policy.body.0.weight"], saved["policy.body.0.weight"])
