"""Pendulum that breaks down in the second process of a run, after some steps."""

import os
from typing import Any

import gymnasium as gym
from gymnasium.envs.classic_control import PendulumEnv


class BreaksInTheSecondProcess(PendulumEnv):
    steps = 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps > 300 and os.environ.get("RANK", os.environ.get("LOCAL_RANK")) == "1":
            raise RuntimeError("broken")
        return super().step(action)


gym.register("BreaksInTheSecondProcess-v0", BreaksInTheSecondProcess, max_episode_steps=200)
