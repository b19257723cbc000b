"""metrics.csv: one continuous file, whenever the process that writes it dies."""

import csv
import os
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from toys import make_trainer, noise_data, tiny_sac

from rl_lightning import MetricsCSV, UsageError
from rl_lightning.callbacks.metrics_csv import TEST, final_test
from rl_lightning.callbacks.run_folder import FolderLock, write_whole


def written(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def logged(folder: Path, *env_steps: int) -> MetricsCSV:
    """A logger that has written a row for each."""
    logger = MetricsCSV(folder)
    for steps in env_steps:
        logger.log_metrics({"env_steps": steps, "train/loss": torch.tensor(0.5)}, step=steps)
        logger.save()
    return logger


def row(steps: int, **more: str) -> dict[str, str]:
    return {"env_steps": str(steps), "step": str(steps), "train/loss": "0.5", **more}


def test_rows_are_appended_and_a_new_column_leaves_the_old_rows_as_they_are(tmp_path):
    logger = logged(tmp_path, 10, 20)
    before = (tmp_path / "metrics.csv").read_text()
    assert before == "env_steps,step,train/loss\n10,10,0.5\n20,20,0.5\n"
    logger.log_metrics({"env_steps": 30, "a": 1.0}, step=30)
    logger.save()
    assert (tmp_path / "metrics.csv").read_text() == "a,env_steps,step,train/loss\n,10,10,0.5\n,20,20,0.5\n1.0,30,30,\n"
    assert sorted(os.listdir(tmp_path)) == [".lock", "metrics.csv"]


def test_a_file_is_the_old_one_whole_if_writing_the_new_one_fails(tmp_path, monkeypatch):
    logger = logged(tmp_path, 10)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    logger.log_metrics({"new": 1.0}, step=20)
    with pytest.raises(UsageError, match=r"metrics.csv' cannot be written: No space left on device; make room there"):
        logger.save()
    assert written(tmp_path) == [row(10)]
    assert sorted(os.listdir(tmp_path)) == [".lock", "metrics.csv"]


def test_rows_after_the_checkpoint_are_cut_off_and_logged_again(tmp_path):
    first = logged(tmp_path, 10, 20)
    first.log_metrics({"env_steps": 30, "train/loss": 0.5}, step=30)
    state = first.state_dict()  # the third row is on disk too by now
    assert state == {"rows": 3, "last_row": row(30)}
    assert written(tmp_path) == [row(10), row(20), row(30)]
    first.log_metrics({"env_steps": 40, "later": 1.0}, step=40)
    first.save()
    first.finalize("failed")

    second = MetricsCSV(tmp_path)
    second.load_state_dict(state)
    assert written(tmp_path) == [row(10), row(20), row(30)]
    second.log_metrics({"env_steps": 50, "train/loss": 0.5}, step=50)
    second.save()
    assert written(tmp_path) == [row(10), row(20), row(30), row(50)]
    assert second.state_dict()["rows"] == 4


@pytest.mark.parametrize("torn", ["40", "40,40,0.", "40,40,0.5"])
def test_half_a_line_is_cut_off(tmp_path, torn):
    first = logged(tmp_path, 10, 20)
    state = first.state_dict()
    first.finalize("failed")
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write(torn)
    second = MetricsCSV(tmp_path)
    second.load_state_dict(state)
    assert (tmp_path / "metrics.csv").read_text().endswith("20,20,0.5\n")


def test_the_final_test_of_the_checkpoint_stays_and_that_of_a_later_time_goes(tmp_path):
    for tested, kept in ((20, 3), (40, 2)):
        folder = tmp_path / str(tested)
        first = logged(folder, 10, 20)
        state = first.state_dict()
        first.log_metrics({"env_steps": float(tested), "test/return_mean": 3.0}, step=tested)
        first.save()
        first.finalize("success")
        second = MetricsCSV(folder)
        second.load_state_dict(state)
        assert len(written(folder)) == second.state_dict()["rows"] == kept


def test_rows_of_another_run_are_neither_cut_off_nor_continued(tmp_path):
    other = logged(tmp_path / "other", 11, 21, 31)
    other.finalize("success")
    mine = logged(tmp_path / "mine", 10, 20).state_dict()
    with pytest.raises(
        UsageError, match="does not have the 2 rows that were logged before the checkpoint: move it awa"
    ):
        MetricsCSV(tmp_path / "other").load_state_dict(mine)
    with pytest.raises(UsageError, match=r"has 3 rows of another run: give a folder of its own, or go on from"):
        logged(tmp_path / "other", 10)
    assert [each["env_steps"] for each in written(tmp_path / "other")] == ["11", "21", "31"]


def test_a_run_that_goes_on_in_a_new_folder_begins_a_new_file(tmp_path):
    state = logged(tmp_path / "first", 10, 20).state_dict()
    second = MetricsCSV(tmp_path / "second")
    second.load_state_dict(state)
    second.log_metrics({"env_steps": 30, "train/loss": 0.5}, step=30)
    second.save()
    assert written(tmp_path / "second") == [row(30)]
    assert second.state_dict()["rows"] == 1


def test_a_folder_has_one_process_until_that_ends_however_it_ends(tmp_path):
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        lock = FolderLock(tmp_path)
        os.write(tell, b"1")
        signal.pause()
        lock.release()
    os.read(ready, 1)
    for _ in range(2):
        with pytest.raises(UsageError) as refusal:
            FolderLock(tmp_path)
        assert str(refusal.value) == (
            f"run folder {str(tmp_path)!r} is in use by process {child}: wait until that has ended, or stop it"
        )
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    FolderLock(tmp_path).release()


def test_a_folder_that_cannot_be_written_to_is_refused_in_one_line(tmp_path):
    (tmp_path / "run/.lock").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"run folder '.*run' cannot be written to: Is a directory; allow it"):
        FolderLock(tmp_path / "run")


def test_the_final_test_is_the_last_one_of_a_run_that_has_not_gone_on():
    early, late = {TEST: "1.0", "env_steps": "100.0"}, {TEST: "2.0", "env_steps": "300.0"}
    assert final_test([]) is None
    assert final_test([{"env_steps": "100"}, {TEST: "3.0"}]) is None
    assert final_test([{"env_steps": "100"}, early, {"lr": "0.1"}]) == early
    assert final_test([early, {"env_steps": "200"}]) is None
    assert final_test([early, {"env_steps": "300"}, late]) == late


def test_a_child_that_outlives_its_process_does_not_hold_the_folder(tmp_path):
    lock = FolderLock(tmp_path)
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tell, b"1")
        signal.pause()
    os.read(ready, 1)
    with pytest.raises(UsageError, match=f"in use by process {os.getpid()}"):
        FolderLock(tmp_path)
    lock.release()
    FolderLock(tmp_path).release()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_file_is_exchanged_whole(tmp_path):
    path = tmp_path / "some.txt"
    write_whole(path, "old")
    held = path.open()
    write_whole(path, "new")
    assert held.read() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["some.txt"]


def test_a_trainer_goes_on_with_its_file(tmp_path):
    def run(total_env_steps: int, ckpt_path: Path | None = None) -> None:
        data = noise_data(total_env_steps=total_env_steps, env_steps_per_epoch=20)
        saves = ModelCheckpoint(filename="last", enable_version_counter=False)
        trainer = make_trainer([saves], MetricsCSV(tmp_path), log_every_n_steps=5)
        trainer.fit(tiny_sac(data.observation_space, data.action_space), datamodule=data, ckpt_path=ckpt_path)

    run(60)
    last = tmp_path / "checkpoints/last.ckpt"
    saved = torch.load(last, weights_only=True)["rl_lightning"]
    assert saved["logged"]["rows"] == len(written(tmp_path))
    steps = [int(each["env_steps"]) for each in written(tmp_path)]
    with pytest.raises(UsageError, match=f"has {len(steps)} rows of another run"):
        run(60)
    run(100, last)
    again = [int(each["env_steps"]) for each in written(tmp_path)]
    assert again[: len(steps)] == steps
    assert again == sorted(set(again))
    assert again[-1] == 100
