"""What the progress bar draws, read from what real runs print."""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from toys import CounterEnv, counter_data, fit, make_trainer, tiny_sac

from rl_lightning import EnvironmentFault, EnvStepsProgressBar, ReplayDataModule
from rl_lightning.algorithms.shared import computing
from rl_lightning.data.base import VAL_SEED
from rl_lightning.schedules import Clock

DRAWING = re.compile(r"(\w+) +(\d+)% \|.*?\| (\d+)/(\d+) ([a-z ]+) \[(.*?)\]")


class Drawing(NamedTuple):
    title: str
    percentage: int
    done: int
    total: int
    unit: str
    rest: str  # times, speed and returns


def drawings(text: str) -> list[Drawing]:
    found = DRAWING.findall(text)
    return [Drawing(title, int(share), int(n), int(total), unit, rest) for title, share, n, total, unit, rest in found]


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    for name in ("COLUMNS", "LINES"):  # a narrow terminal's would cut the returns off
        monkeypatch.delenv(name, raising=False)


def model_and_data(**settings):
    data = counter_data(**settings)
    return tiny_sac(data.observation_space, data.action_space), data


def sum_to(length):
    return length * (length + 1) / 2  # what an episode of CounterEnv returns


def test_a_run_is_one_bar_of_environment_steps_that_ends_with_the_latest_returns(capsys):
    model, data = model_and_data(num_envs=3, total_env_steps=132, env_steps_per_epoch=60, eval_episodes=3)
    fit(model, data, make_trainer([EnvStepsProgressBar()], validate=True))
    out = capsys.readouterr().out
    first, *_, last = drawings(out)
    assert first[:5] == ("Training", 0, 0, 132, "env steps")
    assert last[:5] == ("Training", 100, 132, 132, "env steps")
    assert {drawing.title for drawing in drawings(out)} == {"Training"}
    assert out.endswith("\n")
    # a row is ten batches of three steps, and the last one began at 102
    steps = [step for env in CounterEnv.stepped()[:3] for step in env.log[102 // 3 :]]
    train = np.mean([sum_to(step.next_obs[1]) for step in steps if step.terminated or step.truncated])
    evaluated = [CounterEnv.episode_length(CounterEnv.first_episode(VAL_SEED + i)) for i in range(3)]
    assert last.rest.endswith(f"return={train:.1f}, eval={np.mean([sum_to(t) for t in evaluated]):.1f}")


def test_steps_and_returns_are_drawn_while_the_run_goes_on(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    model, data = model_and_data(num_envs=3, total_env_steps=132, env_steps_per_epoch=60, eval_episodes=40)
    fit(model, data, make_trainer([EnvStepsProgressBar(refresh_seconds=0)], validate=True, log_every_n_steps=5))
    drawn = drawings(capsys.readouterr().out)
    done = [drawing.done for drawing in drawn]
    assert done == sorted(done)
    assert len({*done}) > 5
    assert {*done} <= {0, *range(15, 133, 3)}, "12 random steps, then a batch of one step in each of three"
    assert any("return=" in drawing.rest and "eval=" not in drawing.rest for drawing in drawn if drawing.done < 72)
    assert any("return=" in drawing.rest and "eval=" in drawing.rest for drawing in drawn if drawing.done < 132)


def test_an_evaluation_is_drawn_without_waiting_for_a_row(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    model, data = model_and_data(env_steps_per_epoch=54, eval_episodes=1)
    fit(model, data, make_trainer([EnvStepsProgressBar(refresh_seconds=0)], validate=True, log_every_n_steps=1000))
    assert any("eval=" in drawing.rest for drawing in drawings(capsys.readouterr().out) if drawing.done < 120)


def test_the_row_that_ends_a_run_is_drawn_without_an_evaluation(capsys):
    fit(*model_and_data(), make_trainer([EnvStepsProgressBar()], log_every_n_steps=1000))
    ends = [(n, s.next_obs[1]) for n, s in enumerate(CounterEnv.stepped()[0].log, 1) if s.terminated or s.truncated]
    returns = [sum_to(length) for n, length in ends if n - length >= 12]  # those without random steps
    assert drawings(capsys.readouterr().out)[-1].rest.endswith(f"return={np.mean(returns):.1f}")


def test_a_terminal_is_drawn_on_no_more_often_than_refresh_seconds(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    fit(*model_and_data(), make_trainer([EnvStepsProgressBar(refresh_seconds=1e9)]))
    assert {drawing.done for drawing in drawings(capsys.readouterr().out)} == {0, 120}


def test_a_file_is_drawn_on_less_often_whatever_refresh_seconds(capsys):
    fit(*model_and_data(), make_trainer([EnvStepsProgressBar(refresh_seconds=0)]))
    assert len(drawings(capsys.readouterr().out)) < 10  # of 108 batches


def test_a_resumed_run_starts_at_the_steps_of_the_first(capsys, tmp_path):
    fit(*model_and_data(total_env_steps=40)).save_checkpoint(tmp_path / "first.ckpt")
    model, data = model_and_data(total_env_steps=60)
    make_trainer([EnvStepsProgressBar()]).fit(model, datamodule=data, ckpt_path=tmp_path / "first.ckpt")
    first, *_, last = drawings(capsys.readouterr().out)
    assert first[:4] == ("Training", 67, 40, 60)
    assert last[:4] == ("Training", 100, 60, 60)


@pytest.mark.parametrize(
    ("stage", "title", "done"),
    [
        ("validate", "Validating", [0, 10, 13]),  # ten episodes are played at once
        ("test", "Testing", [0, 10, 20, 23]),
        ("predict", "Recording", [0, 10, 13]),
    ],
)
def test_evaluation_is_a_bar_of_the_episodes_played(stage, title, done, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    model, data = model_and_data(eval_episodes=13, test_episodes=23)
    trainer = make_trainer([EnvStepsProgressBar(refresh_seconds=0)], validate=True)
    getattr(trainer, stage)(model, datamodule=data, **({} if stage == "predict" else {"verbose": False}))
    out = capsys.readouterr().out
    drawn = drawings(out)
    assert list(dict.fromkeys(drawing.done for drawing in drawn)) == done
    assert {(drawing.title, drawing.total, drawing.unit) for drawing in drawn} == {(title, done[-1], "episodes")}
    assert out.endswith("\n")


def test_a_disabled_bar_draws_nothing_until_it_is_enabled_again(capsys):
    bar = EnvStepsProgressBar()
    model, data = model_and_data(eval_episodes=1)
    trainer = make_trainer([bar], validate=True)
    bar.disable()
    fit(model, data, trainer)
    trainer.validate(model, datamodule=data, verbose=False)
    trainer.test(model, datamodule=data, verbose=False)
    trainer.predict(model, datamodule=data)
    assert capsys.readouterr().out == ""
    bar.enable()
    trainer.validate(model, datamodule=data, verbose=False)
    assert "Validating 100%" in capsys.readouterr().out


def test_an_error_closes_the_bar_where_the_run_came_to(capsys):
    data = ReplayDataModule(
        "toys:Broken-v0",
        {"fault": "nan reward", "at": 9},
        num_envs=2,
        learning_starts=4,
        total_env_steps=50,
        batch_size=4,
        buffer_size=50,
    )
    bar = EnvStepsProgressBar()
    with pytest.raises(EnvironmentFault):
        fit(tiny_sac(data.observation_space, data.action_space), data, make_trainer([bar]))
    out = capsys.readouterr().out
    assert drawings(out)[-1][:4] == ("Training", 32, 16, 50)  # eight steps of two environments
    assert out.endswith("\n"), "what is printed next has a line of its own"


@pytest.mark.parametrize("compiles", [True, False])
def test_the_bar_says_that_gradients_compile_until_they_have_run(compiles, capsys, monkeypatch):
    monkeypatch.setattr(computing, "compiled_or_eager", lambda gradients, device: gradients)
    model, data = model_and_data(eval_episodes=1)
    model.compile_gradients = compiles
    fit(model, data, make_trainer([EnvStepsProgressBar()]))
    titles = re.findall(r"([A-Z][a-z ]+?) +\d+% ", capsys.readouterr().out)
    assert list(dict.fromkeys(titles)) == (["Training", "Compiling gradients"] if compiles else ["Training"])
    assert titles[-1] == "Training"


@pytest.fixture
def terminal():
    """A real one, of a width that can be changed; `read` gives the lines drawn since it was called last."""
    screen, line = pty.openpty()
    with open(line, "w") as out:

        def resize(columns):
            fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

        def read():
            found = b""
            while select.select([screen], [], [], 0.1)[0]:
                found += os.read(screen, 1 << 16)
            return found.decode().replace("\r\n", "").split("\r")[1:]

        yield SimpleNamespace(out=out, resize=resize, read=read)
    os.close(screen)


def trainer_of(clock, log_every_n_steps, batches_done=0):
    loop = SimpleNamespace(total_batch_idx=batches_done)
    data = SimpleNamespace(clock=clock)
    return SimpleNamespace(datamodule=data, callback_metrics=LATEST, log_every_n_steps=log_every_n_steps, fit_loop=loop)


ERASE = "\x1b[K"
LATEST = {"train/return": torch.tensor(-1234.5), "val/return_mean": torch.tensor(-1111.1)}


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (120, [r" 43% \|█+.*\| 1300000/3000000 env steps \[", r"env steps/s, return=-1234.5, eval=-1111.1\]$"]),
        (80, [r" 43% \|█+.*\| \[.* left, return=-1234.5, eval=-1111.1\]$"]),
        (60, [r"^Training  43% \[.* left, return=-1234.5, eval=-1111.1\]$"]),
        (40, [r"^ 43%, return=-1234.5, eval=-1111.1$"]),
    ],
)
def test_a_terminal_shows_what_it_has_room_for_and_returns_first_also_once_it_is_resized(
    columns, shown, terminal, monkeypatch
):
    monkeypatch.setattr(sys, "stdout", terminal.out)
    clock, bar = Clock(3_000_000), EnvStepsProgressBar(refresh_seconds=0)
    trainer = trainer_of(clock, log_every_n_steps=1)
    terminal.resize(columns + 37)
    bar.on_train_start(trainer, None)
    assert max(map(len, terminal.read())) <= columns + 37
    terminal.resize(columns)
    for clock.env_steps in (600_000, 1_300_000):
        bar.on_train_batch_end(trainer, None, None, None, 0)
    lines = terminal.read()
    assert max(map(len, lines)) <= columns, "a longer line would go on in the next"
    for pattern in shown:
        assert re.search(pattern, lines[-1].rstrip()), lines
    bar.on_train_end(trainer, None)


def test_what_a_longer_line_had_behind_the_new_edge_is_erased_once(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal.out)
    clock, bar = Clock(3_000_000), EnvStepsProgressBar(refresh_seconds=0)
    trainer = trainer_of(clock, log_every_n_steps=1)
    terminal.resize(100)
    bar.on_train_start(trainer, None)
    assert ERASE not in terminal.read()
    terminal.resize(60)
    for clock.env_steps in (600_000, 1_300_000):
        bar.on_train_batch_end(trainer, None, None, None, 0)
    assert terminal.read().count(ERASE) == 1
    bar.on_train_end(trainer, None)


def test_the_return_is_that_of_the_latest_row_where_epochs_are_shorter_than_rows(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal.out)
    clock, bar = Clock(3_000_000), EnvStepsProgressBar(refresh_seconds=0)
    terminal.resize(120)
    trainer = trainer_of(clock, log_every_n_steps=25, batches_done=24)  # the first row, in an epoch of 20 batches
    bar.on_train_start(trainer, None)
    for clock.env_steps, batch_idx in ((600_000, 4), (1_300_000, 5)):
        bar.on_train_batch_end(trainer, None, None, None, batch_idx)
    assert "return=-1234.5" in terminal.read()[-1]
    bar.on_train_end(trainer, None)
