"""Episodes as videos: mp4 files, written frame by frame."""

import os
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from traceback import walk_tb
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rl_lightning.environments.episodes import Act
from rl_lightning.environments.make import make_env
from rl_lightning.environments.wrappers import EnvWrapper
from rl_lightning.errors import UsageError, reason_of, require
from rl_lightning.spaces import to_numpy, to_tensor
from rl_lightning.types import map_obs

FPS = 30  # of environments that do not say theirs


def check_filmed(env_id: str, env_kwargs: Mapping[str, Any], wrappers: Sequence[EnvWrapper] = ()) -> None:
    """Refuse an environment that cannot be filmed here; one frame is drawn to see.

    Args:
        env_id: a registered Gymnasium id.
        env_kwargs: arguments of the environment itself.
        wrappers: put around it.

    Raises:
        UsageError: no encoder, an environment without pictures, or no library to draw them with.
    """
    if find_spec("imageio_ffmpeg") is None:
        raise UsageError('videos need imageio-ffmpeg, which is not installed: pip install "rl_lightning[video]"')
    env = _filmed(env_id, env_kwargs, wrappers)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of GLFW's, before the error that is told
            env.reset(seed=0)
            _frame(env)
    except UsageError:
        raise
    except Exception as error:
        callers = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
        needs_gl = any(module.startswith(("mujoco.", "gymnasium.envs.mujoco.")) for module in callers)
        fix = "MuJoCo draws with a GL library: install EGL or OSMesa and set MUJOCO_GL=egl or osmesa, or leave it out"
        advice = fix if needs_gl else "mend its render(), or leave VideoRecorder out"
        raise UsageError(f"{env_id} cannot be filmed here ({reason_of(error)}): {advice}") from error
    finally:
        env.close()


def film_episode(
    act: Act,
    env_id: str,
    env_kwargs: Mapping[str, Any],
    seed: int,
    path: Path,
    max_steps: int | None = None,
    wrappers: Sequence[EnvWrapper] = (),
) -> float:
    """Play one whole episode in an environment of its own, and write it to an mp4 file.

    Args:
        act: the policy.
        env_id: a registered Gymnasium id.
        env_kwargs: arguments of the environment itself.
        seed: of the reset.
        path: of the file; its folder is made.
        max_steps: the episode is cut off after so many; None plays on to its end.
        wrappers: put around the environment.

    Returns:
        The undiscounted return of raw rewards.
    """
    from imageio_ffmpeg import write_frames

    env = _filmed(env_id, env_kwargs, wrappers)
    path.parent.mkdir(parents=True, exist_ok=True)
    obs, _ = env.reset(seed=seed)
    frame, total, steps, is_over = _frame(env), 0.0, 0, False
    height, width, _ = frame.shape
    # macro blocks of 2: players want even sides, and 16 would stretch most pictures
    video = write_frames(str(path), (width, height), fps=env.metadata.get("render_fps") or FPS, macro_block_size=2)
    try:
        video.send(None)
        video.send(frame)
        while not is_over and steps != max_steps:
            shown = to_tensor(map_obs(lambda one: np.asarray(one)[None], obs), env.observation_space)
            obs, reward, terminated, truncated, _ = env.step(to_numpy(act(shown))[0])
            video.send(_frame(env))
            total, steps, is_over = total + float(reward), steps + 1, terminated or truncated
    finally:
        video.close()
        env.close()
    return total


def as_gif(path: Path, width: int = 240, fps: int = 10, seconds: int = 30) -> bytes:
    """The beginning of a film as an animated GIF, for pages that show pictures only.

    Args:
        path: of the mp4 file.
        width: of the picture, in pixels; its height follows.
        fps: frames a second, of the same seconds as the film's.
        seconds: of the film that it has.
    """
    from imageio_ffmpeg import get_ffmpeg_exe

    drawn = f"fps={fps},scale={width}:-1:flags=lanczos,split[a][b];[a]palettegen[p];[b][p]paletteuse"
    command = [get_ffmpeg_exe(), "-v", "error", "-t", str(seconds), "-i", str(path), "-vf", drawn, "-f", "gif", "-"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def _filmed(env_id: str, env_kwargs: Mapping[str, Any], wrappers: Sequence[EnvWrapper]) -> gym.Env[Any, Any]:
    if not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        # pygame draws into memory; without a screen its SDL would look for one, and write an error into the bar
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    return make_env(env_id, {**env_kwargs, "render_mode": "rgb_array"}, wrappers=wrappers)


def _frame(env: gym.Env[Any, Any]) -> NDArray[np.uint8]:
    """What the environment shows now, [H, W, 3]."""
    frame = env.render()
    is_picture = isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.shape[2:] == (3,)
    advice = "a video needs arrays [H, W, 3] of uint8 from render() with render_mode=rgb_array"
    require(is_picture, "render()", type(frame).__name__, advice)
    return np.ascontiguousarray(frame)
