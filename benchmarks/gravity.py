"""HalfCheetah-v5 with another gravity: `benchmarks.gravity:HalfCheetahGravity-v5`, for benchmarks.fine_tuning."""

import gymnasium
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv


class HalfCheetahGravity(HalfCheetahEnv):
    """HalfCheetah-v5 under a gravity that is given.

    Args:
        gravity: acceleration along z in m/s²; HalfCheetah-v5's own is -9.81.
        render_mode: as for every Gymnasium environment.
    """

    def __init__(self, gravity: float = -9.81, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.model.opt.gravity[2] = gravity


gymnasium.register("HalfCheetahGravity-v5", "benchmarks.gravity:HalfCheetahGravity", max_episode_steps=1000)
