"""When a run is saved, and what signals do to it: real signals, sent to this very process at a given moment."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from rl_lightning import DQN, MLP, ReplayDataModule, UsageError
from rl_lightning.callbacks import Checkpoints, WandbRun
from rl_lightning.checkpoints import fault_of, link, read, write

EPOCH = 40


class Scores(Callback):
    """Gives the evaluations of a run these returns."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = list(scores)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: DQN) -> None:
        self.log("score", self.scores.pop(0) if self.scores else -1e9)


def make(total: int, **settings: object) -> tuple[DQN, ReplayDataModule]:
    given = {"learning_starts": 20, "batch_size": 4, "eval_episodes": 1, "buffer_size": 500} | settings
    data = ReplayDataModule("CartPole-v1", total_env_steps=total, env_steps_per_epoch=EPOCH, **given)
    model = DQN(data.observation_space, data.action_space, network=partial(MLP, hidden_sizes=(4,)), compile=False)
    return model, data


def fit(
    checkpoints: Checkpoints,
    total: int = 140,
    others: tuple[Callback, ...] = (),
    ckpt_path: Path | None = None,
    **settings: object,
) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", max_epochs=-1, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, callbacks=[*others, checkpoints], **{"logger": False} | settings,
    )  # fmt: skip
    trainer.fit(*make(total), ckpt_path=ckpt_path)
    return trainer


def steps_of(path: Path) -> int:
    return int(read(path)["rl_lightning"]["env_steps"])


class Saves(Callback):
    """Notes the environment steps of every checkpoint that is written."""

    def __init__(self) -> None:
        self.at: list[int] = []

    def on_save_checkpoint(self, trainer: Trainer, pl_module: DQN, checkpoint: object) -> None:
        self.at.append(pl_module.env_steps)


def test_last_is_the_newest_and_best_the_best_and_a_moment_is_written_once(tmp_path: Path) -> None:
    saves, checkpoints = Saves(), Checkpoints(str(tmp_path), monitor="score")
    fit(checkpoints, others=(Scores([1.0, 5.0, 5.0]), saves))
    assert saves.at == [60, 100, 140]
    assert (steps_of(tmp_path / "last.ckpt"), steps_of(tmp_path / "best.ckpt")) == (140, 100)
    assert checkpoints.best_model_score == 5.0
    assert checkpoints.best_model_path == str(tmp_path / "best.ckpt")
    fit(Checkpoints(str(tmp_path / "new"), monitor="score", mode="min"), others=(Scores([3.0, 4.0, 2.0]),))
    assert (tmp_path / "new/last.ckpt").samefile(tmp_path / "new/best.ckpt")
    assert sorted(os.listdir(tmp_path / "new")) == ["best.ckpt", "last.ckpt"]


def test_a_resumed_run_goes_on_with_the_best_so_far_in_its_folder_and_anew_in_another(tmp_path: Path) -> None:
    fit(Checkpoints(str(tmp_path), monitor="score"), 100, (Scores([7.0, 6.0]),))
    for folder, best in ((tmp_path / "other", 140), (tmp_path, 60)):
        fit(Checkpoints(str(folder), monitor="score"), 140, (Scores([3.0]),), ckpt_path=tmp_path / "last.ckpt")
        assert steps_of(folder / "best.ckpt") == best
        assert steps_of(folder / "last.ckpt") == 140


def test_without_a_value_to_compare_nothing_is_the_best(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="checkpoint.monitor='nothing' has not been logged"):
        fit(Checkpoints(str(tmp_path), monitor="nothing"))
    assert os.listdir(tmp_path) == ["last.ckpt"]
    fit(Checkpoints(str(tmp_path), monitor="score"), others=(Scores([float("nan")] * 3),))
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize(("log_model", "kept"), [(True, ["best", "last"]), ("all", ["best", "last"]), (False, [])])
def test_a_logger_that_keeps_checkpoints_gets_the_best_and_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_model: bool | str, kept: list[str]
) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    logger = WandbRun(save_dir=str(tmp_path), log_model=log_model)
    fit(Checkpoints(str(tmp_path), monitor="score"), others=(Scores([1.0, 5.0, 3.0]),), logger=logger)
    logger.experiment.finish()
    assert sorted(Path(path).stem for path in logger._logged_model_time) == kept
    staged = [file for file in (tmp_path / "data").rglob("*") if file.is_file() and file.stat().st_size > 10_000]
    assert bool(staged) == bool(kept)


def test_it_saves_every_so_many_environment_steps_and_minutes_and_without_evaluations(tmp_path: Path) -> None:
    saves = Saves()
    fit(Checkpoints(str(tmp_path), every_env_steps=15), 100, (saves,), limit_val_batches=0)
    assert saves.at == [35, 50, 60, 75, 90, 100]  # 20 random steps, then epochs of 40
    saves = Saves()
    fit(Checkpoints(str(tmp_path), every_minutes=1e-9), 60, (saves,))
    assert saves.at == [*range(20, 61)]


def test_so_many_of_the_newest_are_kept_beside_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), monitor="score", every_env_steps=20, keep_last=3)
    fit(checkpoints, 140, (Scores([9.0]),))
    assert sorted(os.listdir(tmp_path)) == ["100.ckpt", "120.ckpt", "best.ckpt", "last.ckpt"]
    assert [steps_of(tmp_path / f"{name}.ckpt") for name in ("100", "120", "best", "last")] == [100, 120, 60, 140]
    again = Checkpoints(str(tmp_path), monitor="score", every_env_steps=20, keep_last=3)
    fit(again, 180, (Scores([]),), ckpt_path=tmp_path / "last.ckpt")
    assert sorted(os.listdir(tmp_path)) == ["140.ckpt", "160.ckpt", "best.ckpt", "last.ckpt"]


def test_a_checkpoint_of_the_start_of_a_batch_resumes_without_losing_or_repeating_one(tmp_path: Path) -> None:
    fit(Checkpoints(str(tmp_path), every_env_steps=25, keep_last=10), 100)
    saved = tmp_path / "45.ckpt"
    assert steps_of(saved) == 45
    trainer = fit(Checkpoints(str(tmp_path / "on")), 100, ckpt_path=saved)
    straight = fit(Checkpoints(str(tmp_path / "straight")), 100)
    assert trainer.lightning_module.gradient_steps == straight.lightning_module.gradient_steps == 80
    for name in ("batch_progress", "state_dict"):
        found, expected = (
            read(tmp_path / run / "last.ckpt")["loops"]["fit_loop"][f"epoch_loop.{name}"] for run in ("on", "straight")
        )
        assert found == expected


def test_a_run_that_goes_on_without_the_episodes_under_way_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = fit(Checkpoints(str(tmp_path)), 100)
    trainer.save_checkpoint(tmp_path / "after.ckpt", weights_only=False)
    said = "has neither episodes nor random numbers, as it was saved after its run had ended"
    for name, says in (("last", False), ("after", True)):
        caplog.clear()
        with caplog.at_level("INFO"):
            fit(Checkpoints(str(tmp_path / "on")), 140, ckpt_path=tmp_path / f"{name}.ckpt")
        assert (f"{name}.ckpt' {said}" in caplog.text) is says
        assert ("has neither episodes" in caplog.text) is says


def test_a_plugin_that_saves_later_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^trainer.plugins='AsyncCheckpointIO' is not allowed: Checkpoints waits"):
        fit(Checkpoints(str(tmp_path)), plugins=[AsyncCheckpointIO()])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"mode": "most"}, "checkpoint.mode='most'"),
        ({"every_env_steps": 0}, "checkpoint.every_env_steps=0"),
        ({"every_minutes": -1.0}, "checkpoint.every_minutes=-1.0"),
        ({"keep_last": 0}, "checkpoint.keep_last=0"),
        ({"dirpath": "s3://bucket"}, "checkpoint.dirpath='s3://bucket'"),
    ],
)
def test_what_cannot_be_is_refused(setting: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Checkpoints(**setting)  # type: ignore[arg-type]


def test_a_link_replaces_a_file_at_once_and_is_a_copy_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one.ckpt", tmp_path / "other.ckpt"
    write({"number": 1}, one)
    write({"number": 2}, other)
    for _ in range(2):
        link(one, other)
        assert one.samefile(other)
    monkeypatch.setattr(os, "link", lambda *_: os.stat("/is not there"))
    write({"number": 3}, one)
    link(one, other)
    assert not one.samefile(other)
    assert (read(other)["number"], fault_of(other)) == (3, None)
    assert sorted(os.listdir(tmp_path)) == ["one.ckpt", "other.ckpt"]


# Signals


class Sends(Callback):
    """Sends signals to this process when a hook is called for the n-th time."""

    def __init__(self, hook: str, count: int, *numbers: int) -> None:
        self.calls, self.count, self.numbers = 0, count, numbers
        setattr(self, hook, self.send)

    def send(self, *_: object) -> None:
        self.calls += 1
        if self.calls == self.count:
            for number in self.numbers:
                os.kill(os.getpid(), number)
                time.sleep(0.01)  # the handler runs between two lines of Python


HANDLERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in HANDLERS]


@pytest.mark.parametrize(
    ("hook", "count", "saved_at"),
    [
        ("on_train_batch_start", 11, 30),  # 20 random steps and 10 batches of one
        ("on_train_batch_end", 11, 31),
        ("on_gradient_step_end", 40, 60),  # in the last batch of an epoch: the evaluation ends first
        ("on_validation_batch_end", 1, 60),
        ("on_save_checkpoint", 1, 60),
        ("on_train_end", 1, 140),
    ],
)
def test_a_signal_ends_the_run_after_a_checkpoint(
    hook: str, count: int, saved_at: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = handlers()
    number = {"on_train_batch_start": signal.SIGINT, "on_train_batch_end": signal.SIGUSR1}.get(hook, signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        fit(Checkpoints(str(tmp_path)), others=(Sends(hook, count, number),))
    assert stopped.value.code == (130 if number == signal.SIGINT else 143)
    assert steps_of(tmp_path / "last.ckpt") == saved_at
    assert handlers() == before
    out = capsys.readouterr().out.strip().splitlines()
    assert out[-1].startswith(f"{number.name} after {saved_at} environment steps: saved {tmp_path / 'last.ckpt'}")
    if saved_at < 140:
        trainer = fit(Checkpoints(str(tmp_path)), ckpt_path=tmp_path / "last.ckpt")
        assert trainer.lightning_module.env_steps == 140


def test_random_steps_of_replay_end_early_and_go_on_in_the_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = make(140, learning_starts=100)
    store = data._store

    def counted(step: object) -> None:
        store(step)  # type: ignore[arg-type]
        if data.buffer.steps == 33:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    monkeypatch.setattr(data, "_store", counted)
    trainer = Trainer(
        accelerator="cpu", logger=False, max_epochs=-1, callbacks=[Checkpoints(str(tmp_path))],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        trainer.fit(model, data)
    assert stopped.value.code == 143
    assert steps_of(tmp_path / "last.ckpt") == 33
    assert model.gradient_steps == 0


def test_a_second_ctrl_c_ends_at_once_and_a_second_sigterm_does_not(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        fit(Checkpoints(str(tmp_path)), others=(Sends("on_train_batch_end", 3, signal.SIGINT, signal.SIGINT),))
    assert stopped.value.code == 130
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stopped:
        fit(Checkpoints(str(tmp_path)), others=(Sends("on_train_batch_end", 3, signal.SIGTERM, signal.SIGTERM),))
    assert stopped.value.code == 143
    assert steps_of(tmp_path / "last.ckpt") == 23


def test_a_second_ctrl_c_in_the_middle_of_a_save_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    class Interrupting:  # in the middle of being written
        def __reduce__(self) -> tuple[object, ...]:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
            return (str, ())

    class Adds(Callback):
        def on_save_checkpoint(self, trainer: Trainer, pl_module: DQN, checkpoint: dict[str, object]) -> None:
            if pl_module.env_steps == 100:
                checkpoint["it"] = Interrupting()

    with pytest.raises(SystemExit) as stopped:
        fit(Checkpoints(str(tmp_path)), others=(Adds(),))
    assert stopped.value.code == 130
    assert steps_of(tmp_path / "last.ckpt") == 60
    assert {*os.listdir(tmp_path)} <= {"last.ckpt", "best.ckpt"}


@pytest.mark.parametrize("stage", ["test", "validate", "predict"])
def test_where_nothing_is_to_be_saved_a_signal_ends_at_once(stage: str) -> None:
    hook = {"test": "on_test_batch_end", "validate": "on_validation_batch_end", "predict": "on_predict_batch_end"}
    before = handlers()
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        callbacks=[Sends(hook[stage], 1, signal.SIGTERM)],
    )  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        getattr(trainer, stage)(*make(140))
    assert stopped.value.code == 143
    assert handlers() == before


def test_handlers_of_slurm_requeueing_and_of_the_users_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[object]] = []

    class Looks(Callback):
        def on_train_batch_start(self, *_: object) -> None:
            seen.append(handlers())

    for name, value in {"NTASKS": "1", "NTASKS_PER_NODE": "1", "JOB_NAME": "train", "PROCID": "0", "LOCALID": "0",
                        "NODEID": "0", "JOB_ID": "7", "NODELIST": "here"}.items():  # fmt: skip
        monkeypatch.setenv(f"SLURM_{name}", value)
    fit(Checkpoints(str(tmp_path)), 60, (Looks(),), default_root_dir=str(tmp_path))
    assert [type(handler).__name__ for handler in seen[-1]] == ["_HandlersCompose", "_HandlersCompose", "method"]
    monkeypatch.undo()

    def mine(*_: object) -> None:
        pass

    before: Callable[..., object] | int | None = signal.signal(signal.SIGUSR1, mine)
    try:
        fit(Checkpoints(str(tmp_path)), 60, (Looks(),))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [getattr(handler, "__name__", "") for handler in seen[-1]] == ["_handle", "mine", "_handle"]


def test_weights_of_a_checkpoint_are_those_of_its_moment(tmp_path: Path) -> None:
    trainer = fit(Checkpoints(str(tmp_path)), 60)
    for name, value in read(tmp_path / "last.ckpt")["state_dict"].items():
        assert torch.equal(value, trainer.lightning_module.state_dict()[name])
