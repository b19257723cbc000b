"""`fit --seeds`: one folder for several seeds, their table, one that fails, stopped and resumed as one; refusals."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import yaml
from jsonargparse import Namespace
from rich.console import Console

from rl_lightning.callbacks.metrics_csv import Row, read_rows
from rl_lightning.callbacks.run_folder import FolderLock
from rl_lightning.cli.main import main
from rl_lightning.cli.run_file import starts
from rl_lightning.cli.several.board import Board, Rows
from rl_lightning.cli.several.group import Checked, Group, group_in
from rl_lightning.cli.several.seeds import check_apart, seeds_in
from rl_lightning.cli.several.table import table
from rl_lightning.cli.wandb_runs import prepare_wandb
from rl_lightning.errors import UsageError

ROOT = Path(__file__).parents[3]
TOTAL = 256
FLAGS = [
    "-c", "a2c/cartpole", "--model.network.hidden_sizes=[8]", "--model.compile=false", "--data.num_envs=2",
    "--data.rollout_steps=8", "--data.env_steps_per_batch=16", f"--data.total_env_steps={TOTAL}",
    "--data.env_steps_per_epoch=64", "--data.eval_episodes=1", "--data.test_episodes=2",
    "--trainer.log_every_n_steps=1", "--trainer.logger=false", "--trainer.accelerator=cpu",
]  # fmt: skip


def callback(name: str, **settings: object) -> str:
    return f"--trainer.callbacks+={json.dumps({'class_path': f'in_one_seed.{name}', 'init_args': settings})}"


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[object, list[str]]:
    """The exit code and the lines of a command in this process; the runs have processes of their own."""
    code: object = 0
    try:
        main([*args])
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().out.splitlines()


def rows(folder: Path) -> list[Row]:
    """Those of a run, without their times."""
    its = read_rows(folder / "metrics.csv")[0]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in its]


def folder_of_group() -> Path:
    [group] = Path("runs").glob("a2c-cartpole-v1/*")
    return group


def kill_this_process_when_there_is(file: Path) -> None:
    while not file.exists():
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)


def test_several_seeds_have_one_folder_and_one_table_and_go_on_as_one_where_they_were_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for workplace in ("straight", "stopped"):
        (tmp_path / workplace).mkdir()

    monkeypatch.chdir(tmp_path / "straight")
    code, lines = run(capsys, "fit", *FLAGS, "--seeds=0,3,5", callback("Raises", seed=5))
    straight = folder_of_group()
    tests = {seed: rows(straight / f"seed-{seed}")[-1] for seed in (0, 3)}
    means = [float(row["test/return_mean"]) for row in tests.values()]
    assert code == 1
    assert {path.name for path in straight.iterdir()} == {
        ".lock", "group.json", "settings.yaml", "seed-0", "seed-3", "seed-5"
    }  # fmt: skip
    assert {path.name for path in (straight / "seed-3").iterdir()} == {
        ".lock", "checkpoints", "config.yaml", "metrics.csv", "output.log", "run.json"
    }  # fmt: skip
    settings = [yaml.safe_load((straight / f"seed-{seed}/config.yaml").read_text()) for seed in (0, 3)]
    assert [each["seed_everything"] for each in settings] == [0, 3]
    assert "seed 5 failed: RuntimeError: no luck" in lines
    assert f"  output    {straight}/seed-5/output.log" in lines
    [line] = [line for line in lines if line.endswith("seed-3")]
    assert line.split()[:4] == ["3", f"{means[1]:.1f}", "±", f"{float(tests[3]['test/return_std']):.1f}"]
    mean, deviation = sum(means) / 2, abs(means[0] - means[1]) / 2
    assert f"Return {mean:,.1f} ± {deviation:,.1f} over 2 of 3 seeds" in lines
    assert any(line.startswith("  resume ") and line.endswith(f"resume {straight}") for line in lines)

    monkeypatch.chdir(tmp_path / "stopped")
    ready = tmp_path / "ready"
    threading.Thread(target=kill_this_process_when_there_is, args=[ready], daemon=True).start()
    waits = callback("WaitsForSignal", seed=0, env_steps=144, file=str(ready))
    code, lines = run(capsys, "fit", *FLAGS, "--seeds=0,3", "--jobs=1", waits)
    stopped = folder_of_group()
    assert code == 143
    assert [line.split()[1] for line in lines if line.endswith(("seed-0", "seed-3"))] == ["stopped", "waits"]
    assert not (stopped / "seed-3").exists()
    assert float(rows(stopped / "seed-0")[-1]["env_steps"]) == 144

    code, lines = run(capsys, "resume", str(stopped))
    assert code == 0
    assert f"Return {mean:,.1f} ± {deviation:,.1f} over 2 of 2 seeds" in lines
    for seed in (0, 3):
        assert rows(stopped / f"seed-{seed}") == rows(tmp_path / "straight" / straight / f"seed-{seed}")
    noted = json.loads((stopped / "seed-0/run.json").read_text())["starts"]
    assert [start["command"].split()[1] for start in noted] == ["fit", "resume"]
    kept = group_in(stopped)
    assert [start["command"] for start in kept.starts][1:] == [f"rl-lightning resume {stopped}"]
    assert (kept.seeds, kept.jobs, {*kept.seconds}) == ([0, 3], 1, {0, 3})

    files = [path for path in stopped.glob("seed-*/*") if path.is_file() and path.name != ".lock"]
    before = {path: path.read_bytes() for path in files}
    code, lines = run(capsys, "resume", str(stopped))
    assert code == 0
    assert f"Return {mean:,.1f} ± {deviation:,.1f} over 2 of 2 seeds" in lines
    assert {path: path.read_bytes() for path in before} == before
    longer = f"--data.total_env_steps={2 * TOTAL}"
    for flag, fragment in {
        "--data.num_envs=1": "data.num_envs=1 is not allowed where a run goes on that has 2",
        "--model.gamma=2": "gamma=2.0 is not allowed",
        "--seed_everything=0": "--seed_everything is not allowed beside several seeds",
        "--seeds=9": "seeds='9' is not allowed: resume goes on with those that there are",
        "--ckpt_path=last": "--ckpt_path=last is not allowed beside resume",
    }.items():
        assert fragment in refused("resume", str(stopped), longer, flag)
    assert "gamma=0.9 is not allowed: seed 0 has finished with 0.99" in refused(
        "resume", str(stopped), "--model.gamma=0.9"
    )
    assert f"runs that there are: {stopped}/seed-" in refused("report", str(stopped))
    lock = FolderLock(stopped)
    assert "is in use by process" in refused("resume", str(stopped), longer)
    lock.release()
    lock = FolderLock(stopped / "seed-3")  # as of a run that a killed command has left
    assert "seed-3' is in use by process" in refused("resume", str(stopped), longer)
    lock.release()
    monkeypatch.setenv("RL_LIGHTNING_RUN_FOLDER", str(stopped))
    assert "it is the folder of several seeds already" in refused("fit", *FLAGS, "--seeds=9")
    monkeypatch.delenv("RL_LIGHTNING_RUN_FOLDER", raising=False)
    assert {path: path.read_bytes() for path in before} == before
    assert len(group_in(stopped).starts) == 3


def refused(*args: str) -> str:
    with pytest.raises(SystemExit) as end:
        main([*args])
    assert isinstance(end.value.code, str)
    assert "\n" not in end.value.code
    return end.value.code


@pytest.mark.parametrize(
    ("flags", "fragment"),
    [
        (["--seeds=many"], "seeds='many' is not allowed: give how many, like 5 for seeds 0 to 4"),
        (["--seeds=0"], "seeds='0' is not allowed: these are none; give how many"),
        (["--seeds="], "seeds='' is not allowed: give how many"),
        (["--seeds=[]"], "seeds='[]' is not allowed: give how many"),
        (["--seeds=[1,2"], "seeds='[1,2' is not allowed: give how many"),
        (["--seeds=4..0"], "seeds='4..0' is not allowed: these are none"),
        (["--seeds=-1..3"], "seeds='-1..3' is not allowed: give how many"),
        (["--seeds=1,2,1"], "seeds='1,2,1' is not allowed: one is there twice"),
        (["--seeds=[4294967296]"], "a seed is at most 2**32 - 1"),
        (["--seeds=2", "--jobs=0"], "jobs='0' is not allowed: give how many runs to train at once"),
        (["--jobs=2"], "jobs='2' is not allowed: one run has one process"),
        (["--seeds=2", "--seed_everything=1"], "--seed_everything is not allowed beside several seeds"),
        (["--seeds=2", "--trainer.fast_dev_run=true"], "trainer.fast_dev_run=True is not allowed: it leaves nothing"),
        (["--seeds=2", "--checkpoint.dirpath=there"], "checkpoint.dirpath='there' is not allowed: all seeds would"),
        (
            ["--seeds=2", "--trainer.logger=WandbLogger", "--trainer.logger.id=one", "--trainer.logger.offline=true"],
            "trainer.logger.id='one' is not al",
        ),
        (["--seeds=2", "--model.gamma=2"], "gamma=2.0 is not allowed"),
    ],
)
def test_what_several_seeds_cannot_have_is_refused_in_one_line_before_anything_is_created(
    flags: list[str], fragment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fragment in refused("fit", *FLAGS, *flags)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_all_seeds_would_keep_their_replay_in_is_refused(tmp_path: Path) -> None:
    trainer = {"fast_dev_run": False, "num_nodes": 1, "logger": False}
    data = {"class_path": "rl_lightning.ReplayDataModule", "init_args": {"buffer_file": "memory"}}
    checked = Checked(tmp_path, {"trainer": trainer, "ckpt_path": None, "data": data}, 100)
    with pytest.raises(UsageError, match=r"^data\.buffer_file='memory' is not allowed: all seeds would write there"):
        check_apart(checked)


def test_seeds_are_a_number_a_range_or_a_list():
    assert seeds_in("3") == [0, 1, 2]
    assert seeds_in("0..4") == [0, 1, 2, 3, 4]
    assert seeds_in("7..7") == seeds_in("[7]") == [7]
    assert seeds_in("3, 0,4294967295") == [3, 0, 2**32 - 1]
    with pytest.raises(UsageError):
        seeds_in("4294967295..4294967296")


def test_a_file_of_a_run_or_a_group_that_is_cut_off_is_named_in_one_line(tmp_path: Path) -> None:
    for name, read in (("group.json", group_in), ("run.json", starts)):
        (tmp_path / name).write_text('{"starts": [')
        with pytest.raises(UsageError, match=rf"^\S+{name} is not JSON \(.+\): restore it from a copy"):
            read(tmp_path)


def test_rows_are_read_on_where_lines_come_and_anew_where_the_file_is_exchanged(tmp_path: Path) -> None:
    path, read = tmp_path / "metrics.csv", Rows(tmp_path / "metrics.csv")
    read.look()
    assert read.env_steps == 0
    path.write_text("env_steps,val/return_mean\n16,\n32.0,-5.5\n48,")
    read.look()
    assert (read.env_steps, read.evaluation) == (32, -5.5)
    with path.open("a") as file:
        file.write("\n64,\n")
    read.look()
    assert (read.env_steps, read.evaluation) == (64, -5.5)
    other = tmp_path / "other"
    other.write_text("a,env_steps,val/return_mean\n1,16,2.0\n")
    other.replace(path)
    read.look()
    assert (read.env_steps, read.evaluation) == (16, 2.0)


@pytest.mark.parametrize(
    ("means", "line"),
    [
        ((0.5, 0.7), "Return 0.600 ± 0.100 over 2 of 2 seeds"),
        ((-4.0, -3.5), "Return -3.75 ± 0.25 over 2 of 2 seeds"),
        ((1200.0, 1201.0), "Return 1,200.5 ± 0.5 over 2 of 2 seeds"),
        ((0.0, 0.0), "Return 0.000 ± 0.000 over 2 of 2 seeds"),
    ],
)
def test_small_returns_have_more_places(means: tuple[float, ...], line: str, tmp_path: Path) -> None:
    group = Group(tmp_path, list(range(len(means))), total_env_steps=10, jobs=None, seconds={}, starts=[])
    for seed, mean in enumerate(means):
        group.run(seed).folder.mkdir()
        rows = f"env_steps,test/return_mean,test/return_std\n10,{mean},0.0\n"
        (group.run(seed).folder / "metrics.csv").write_text(rows)
    assert line in table(group, dict.fromkeys(group.seeds, 0)).splitlines()


@pytest.mark.parametrize("width", [60, 120])
def test_the_lines_of_all_seeds_fit_into_the_terminal(width: int, tmp_path: Path) -> None:
    group = Group(tmp_path, [0, 10], 1_000_000, None, {}, [])
    (tmp_path / "seed-10").mkdir()
    (tmp_path / "seed-10/metrics.csv").write_text("env_steps,val/return_mean\n250000,-1234.5\n")
    board = Board(group)
    board.begin(10)
    with board.shown() as draw:
        draw()
    console = Console(width=width, record=True, file=(tmp_path / "drawn").open("w"))
    console.print(board.drawn(width))
    first, second = console.export_text().splitlines()
    assert max(map(len, (first, second))) <= width
    assert first.startswith("seed 0  waits")
    assert second.startswith("seed 10 trains")
    assert "25%" in second
    assert second.rstrip().endswith("evaluation -1,234.5")
    assert ("250,000 of 1,000,000" in second) == (width == 120)


def test_each_seed_is_a_wandb_run_of_its_own_and_stays_it_where_it_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "20260101-120000-ab12/seed-3"
    logger = Namespace(class_path="rl_lightning.callbacks.WandbRun", init_args=Namespace(id=None, offline=True))
    prepare_wandb(logger, folder, is_new=True)
    assert logger.init_args.id == "20260101-120000-ab12-seed-3"
    prepare_wandb(logger, tmp_path / "20260102-120000-ab12", is_new=False)
    assert logger.init_args.id == "20260101-120000-ab12-seed-3"
    prepare_wandb(logger, tmp_path / "20260102-120000-ab12", is_new=True)
    assert logger.init_args.id == "20260102-120000-ab12"
    (tmp_path / "mine").mkdir()
    Group(tmp_path / "mine", [3], 100, None, {}, []).save()  # where RL_LIGHTNING_RUN_FOLDER names the group's folder
    logger.init_args.id = None
    prepare_wandb(logger, tmp_path / "mine/seed-3", is_new=True)
    assert logger.init_args.id == "mine-seed-3"
