"""Checkpoints as the trainer writes and reads them."""

import os
import resource
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from rl_lightning import DQN, MLP, ReplayDataModule, UsageError
from rl_lightning.checkpoints import SCHEMA, fault_of, load_checkpoint, read
from rl_lightning.checkpoints.io import AtomicCheckpointIO


def fit(folder: Path, ckpt_path: Path | None = None, total: int = 60, **settings: object) -> tuple[Trainer, DQN]:
    data = ReplayDataModule("CartPole-v1", total_env_steps=total, learning_starts=20, batch_size=4, eval_episodes=1,
                            buffer_size=100)  # fmt: skip
    model = DQN(data.observation_space, data.action_space, network=partial(MLP, hidden_sizes=(4,)), compile=False)
    trainer = Trainer(
        accelerator="cpu", logger=False, max_epochs=1, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, filename="last", enable_version_counter=False)], **settings,
    )  # fmt: skip
    trainer.fit(model, data, ckpt_path=ckpt_path)
    return trainer, model


def test_learners_save_with_it_and_its_files_carry_the_schema(tmp_path: Path) -> None:
    trainer, model = fit(tmp_path)
    assert type(trainer.strategy.checkpoint_io) is AtomicCheckpointIO
    path = tmp_path / "last.ckpt"
    assert fault_of(path) is None
    assert read(path)["rl_lightning"]["schema"] == SCHEMA
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UsageError, match="it was cut off"):
        fit(tmp_path / "resumed", path)
    with pytest.raises(UsageError, match="it was cut off"):
        load_checkpoint(path, model.signature)


def test_a_plugin_of_the_users_stays(tmp_path: Path) -> None:
    class Mine(TorchCheckpointIO):
        pass

    trainer, _ = fit(tmp_path, plugins=[Mine()])
    assert type(trainer.strategy.checkpoint_io) is Mine


def test_a_newer_checkpoint_is_refused_and_one_without_a_schema_is_read(tmp_path: Path) -> None:
    _, model = fit(tmp_path)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    checkpoint["rl_lightning"]["schema"] = SCHEMA + 1
    torch.save(checkpoint, tmp_path / "newer.ckpt")
    with pytest.raises(UsageError, match="was saved by a newer rl_lightning"):
        fit(tmp_path / "resumed", tmp_path / "newer.ckpt")
    with pytest.raises(UsageError, match="was saved by a newer rl_lightning"):
        load_checkpoint(tmp_path / "newer.ckpt", model.signature)
    del checkpoint["rl_lightning"]["schema"]
    torch.save(checkpoint, tmp_path / "older.ckpt")
    fit(tmp_path / "resumed", tmp_path / "older.ckpt", total=61)


def test_a_full_disk_ends_the_run_in_one_line_and_keeps_what_was_saved(tmp_path: Path) -> None:
    fit(tmp_path)
    before = (tmp_path / "last.ckpt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(UsageError, match=r"last.ckpt' cannot be saved \(File too large\)") as refusal:
            fit(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(refusal.value)
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_nothing_is_staged_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "is not there"))
    fit(tmp_path / "run")
    assert fault_of(tmp_path / "run" / "last.ckpt") is None


def test_moments_of_optimizers_do_not_stay_in_the_file(tmp_path: Path) -> None:
    fit(tmp_path)
    loaded = AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    moment = loaded["optimizer_states"][0]["state"][0]["exp_avg"]
    assert moment.any()
    with (tmp_path / "last.ckpt").open("r+b") as file:
        file.write(b"\0" * (tmp_path / "last.ckpt").stat().st_size)
    assert moment.any()


def test_what_is_no_data_can_not_be_asked_for(tmp_path: Path) -> None:
    fit(tmp_path)
    with pytest.raises(UsageError, match="weights_only=False is not allowed"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt", weights_only=False)
