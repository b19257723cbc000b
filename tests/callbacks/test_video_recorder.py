"""Films of evaluation episodes: what is in them, and that nothing else changes by them."""

import csv
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import wandb
from imageio_ffmpeg import read_frames
from lightning.pytorch.loggers import TensorBoardLogger
from toys import CounterEnv, fit, make_trainer, tiny_sac
from wandb_records import records_of

from rl_lightning import MetricsCSV, ReplayDataModule, UsageError
from rl_lightning.callbacks import VideoRecorder, WandbRun
from rl_lightning.data.base import VAL_SEED
from rl_lightning.environments import videos
from rl_lightning.environments.videos import check_filmed, film_episode

SHADE = 30  # that a picture is lighter after each step


class Picture(CounterEnv):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode=None):
        super().__init__()
        self.render_mode = render_mode

    def render(self):
        return np.full((34, 48, 3), SHADE * self.t, np.uint8)


gym.register("Picture-v0", Picture)


def shades(path: Path) -> list[float]:
    """The mean of each frame of a video."""
    frames = read_frames(str(path))
    meta = next(frames)
    assert (meta["size"], meta["fps"]) == ((48, 34), 10)
    return [np.frombuffer(frame, np.uint8).mean() for frame in frames]


def test_a_film_has_the_first_picture_and_one_after_each_step(tmp_path):
    path = tmp_path / "films/one.mp4"
    length = CounterEnv.episode_length(CounterEnv.first_episode(5))
    total = film_episode(lambda obs: torch.zeros(1, 2), "Picture-v0", {}, 5, path)
    assert total == length * (length + 1) / 2
    assert shades(path) == pytest.approx([SHADE * t for t in range(length + 1)], abs=5)
    film_episode(lambda obs: torch.zeros(1, 2), "Picture-v0", {}, 5, path, max_steps=1)
    assert len(shades(path)) == 2


def test_where_there_is_no_screen_none_is_looked_for(tmp_path):
    pytest.importorskip("pygame")
    code = "from rl_lightning.environments.videos import check_filmed; check_filmed('Pendulum-v1', {})"
    screen = ("DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "SDL_VIDEODRIVER")
    without = {key: value for key, value in os.environ.items() if key not in screen}
    done = subprocess.run([sys.executable, "-c", code], env=without, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def run(folder, callbacks=(), logger=None, wrappers=None):
    torch.manual_seed(3)
    data = ReplayDataModule(
        "Picture-v0",
        total_env_steps=60,
        env_steps_per_epoch=20,
        learning_starts=10,
        batch_size=4,
        eval_episodes=3,
        wrappers=wrappers,
    )
    model = tiny_sac(data.observation_space, data.action_space)
    fit(model, data, make_trainer(callbacks, logger or MetricsCSV(folder), validate=True, log_every_n_steps=5))


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]


def test_a_run_that_is_filmed_is_the_run_that_is_not(tmp_path):
    run(tmp_path / "without")
    run(tmp_path / "with", [VideoRecorder(episodes=2, every_evaluations=2)])
    assert rows(tmp_path / "with") == rows(tmp_path / "without")
    films = sorted((tmp_path / "with/videos").iterdir())
    assert [path.name for path in films] == ["30-0.mp4", "30-1.mp4", "60-0.mp4", "60-1.mp4"]
    for number, path in enumerate(films[:2]):
        assert len(shades(path)) == 1 + CounterEnv.episode_length(CounterEnv.first_episode(VAL_SEED + number))


def test_what_is_filmed_wears_the_wrappers_of_the_run(tmp_path):
    run(tmp_path, [VideoRecorder()], wrappers=[partial(gym.wrappers.TimeLimit, max_episode_steps=1)])
    assert {len(shades(path)) for path in (tmp_path / "videos").iterdir()} == {2}


def test_wandb_has_a_video_at_its_environment_step(tmp_path):
    run(tmp_path, [VideoRecorder(dirpath=str(tmp_path / "films"))], WandbRun(save_dir=str(tmp_path)))
    wandb.finish()
    wandb.teardown()  # which has written all when it returns
    [written] = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    history = [{item.nested_key[0]: item.value_json for item in r.history.item} for r in records_of(written)]
    assert [row["env_steps"] for row in history if "video" in row] == ["30", "50", "60"]
    assert len([*tmp_path.glob("wandb/offline-run-*/files/media/videos/*.mp4")]) == 3


def test_what_cannot_be_filmed_is_refused_in_one_line_before_the_run(tmp_path, monkeypatch):
    data = ReplayDataModule("toys:Counter-v0", total_env_steps=60, learning_starts=10, batch_size=4)
    with pytest.raises(UsageError, match="render_mode"):
        make_trainer([VideoRecorder()], MetricsCSV(tmp_path / "run")).fit(
            tiny_sac(data.observation_space, data.action_space), data
        )
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match=r"VideoRecorder.episodes=0 is not allowed"):
        VideoRecorder(episodes=0)
    monkeypatch.setattr(videos, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'pip install "rl_lightning\[video\]"'):
        check_filmed("Picture-v0", {})


@pytest.mark.parametrize(
    ("module", "error", "said"),
    [
        (
            "gymnasium.envs.mujoco.mujoco_rendering",
            "OSError('no GL')",
            r"\(OSError: no GL\): .*MUJOCO_GL=egl",
        ),
        ("their_own", "NotImplementedError", r"\(NotImplementedError\): mend its render\(\)"),
    ],
)
def test_what_mujoco_draws_for_anybodys_environment_asks_for_a_gl_library(module, error, said, monkeypatch):
    scope = {"__name__": module}
    exec(f"def draw(env):\n    raise {error}", scope)
    monkeypatch.setattr(Picture, "render", scope["draw"])
    with pytest.raises(UsageError, match=rf"^toys:Picture-v0 cannot be filmed here {said}"):
        check_filmed("toys:Picture-v0", {})


def test_tensorboard_shows_the_films_as_moving_pictures_at_their_environment_step(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(tmp_path, name=None, version="board")
    run(tmp_path, [VideoRecorder(episodes=2)], logger)
    events = accumulator.EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["video/0", "video/1"]
    for number in range(2):
        pictures = events.Images(f"video/{number}")
        assert [picture.step for picture in pictures] == [30, 50, 60]
        length = 1 + CounterEnv.episode_length(CounterEnv.first_episode(VAL_SEED + number))  # at 10 frames a second
        path = tmp_path / "shown.gif"
        path.write_bytes(pictures[0].encoded_image_string)
        frames = read_frames(str(path))
        assert next(frames)["size"] == (240, 170)  # 48x34, five times
        assert [np.frombuffer(frame, np.uint8).mean() for frame in frames] == pytest.approx(
            [SHADE * t for t in range(length)], abs=6
        )
