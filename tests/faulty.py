"""An environment that breaks in any way, at any step, as often as it is told: ``faulty:Faulty-v0``."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

SPACES = {
    "real": Box(-np.inf, np.inf, (2,), np.float32),
    "image": Box(0, 255, (36, 36, 1), np.uint8),  # the least that has the convolutions of Atari
    "discrete": Discrete(4, start=2),
    "choices": MultiDiscrete([3, 2], start=[1, 0]),
    "bits": MultiBinary(3),
    "dict": Dict({"inner": Dict({"vector": Box(-1.0, 1.0, (2,), np.float32)}), "number": Discrete(3)}),
    "tuple": Tuple([Discrete(2), Discrete(2)]),
}


class Ragged:
    """What NumPy cannot make an array of."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("no array of this")


OBSERVATIONS: dict[str, Any] = {
    "None": None,
    "string": "state",
    "list of strings": ["a", "b"],
    "object": np.array([None, {}], dtype=object),
    "complex": np.zeros(2, np.complex64),
    "float image": np.full((36, 36, 1), 0.5, np.float32),
    "signed image": np.zeros((36, 36, 1), np.int64),
    "list beyond 255": [[[256]] * 36] * 36,
    "too large": 6,
    "too small": 1,
    "half": 2.5,
    "array": np.zeros(3, np.float32),
    "empty": np.zeros(0, np.float32),
    "high choice": np.array([4, 0]),
    "low choice": np.array([0, 0]),
    "no bits": np.array([0, 1, 2], np.int8),
    "no key": {"inner": {"vector": np.zeros(2, np.float32)}},
    "one key more": {"inner": {"vector": np.zeros(2, np.float32)}, "number": 0, "more": 1},
    "flat": {"inner": np.zeros(2, np.float32), "number": 0},
    "wrong inside": {"inner": {"vector": np.zeros(2, np.float32)}, "number": 3},
    "ragged": [[0.0], [0.0, 1.0]],
    "no array": Ragged(),
    "nan": np.array([0.0, np.nan], np.float32),
}
REWARDS: dict[str, Any] = {
    "None": None,
    "list": [1.0],
    "string": "1.0",
    "array": np.zeros(1),
    "complex": 1j,
    "nan": float("nan"),
    "inf": np.float32(np.inf),
    "dict": {},
}
FLAGS: dict[str, Any] = {"None": None, "string": "False", "array": np.array([True]), "two": 2, "half": 0.5, "list": []}
FORMS = ("4 values", "6 values", "list", "None", "obs")
ENDINGS = ("raise", "exit", "kill", "hang", "leave")


class FaultyEnv(gym.Env):
    """Keeps its contract up to its step `at`; then it does what `fault` says. Rewards count the steps of an episode.

    Args:
        fault: a kind and what of it, such as ``obs:nan``; see `_act_up`.
        at: step of the life of an environment, 0 for its first reset.
        obs: key of `SPACES`.
        times: a folder that counts faults, of all environments together; beyond `most` there is none.
        most: faults.
        length: of episodes; None never ends.
        info: what every step returns.
    """

    def __init__(
        self,
        fault: str = "none",
        at: int = 3,
        obs: str = "real",
        times: str | None = None,
        most: int = 1,
        length: int | None = 10,
        info: str = "none",
    ):
        self.observation_space = SPACES[obs]
        self.action_space = Box(-1.0, 1.0, (1,), np.float32)
        self.kind, _, self.what = fault.partition(":")
        self.at, self.length, self.info = at, length, info
        self.times, self.most = times, most
        self.steps = self.t = 0
        if self.kind == "make":
            raise {"key": KeyError("colour"), "os": OSError("no display"), "exit": SystemExit(3)}[self.what]
        if self.kind == "space":
            setattr(self, self.what, None)
        if self.kind == "lack":
            delattr(self, self.what)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        result = self._obs(), self._info()
        return self._act_up(result) if self.at == 0 and self.steps == 0 and self._is_due() else result

    def step(self, action):
        self.steps, self.t = self.steps + 1, self.t + 1
        result = self._obs(), float(self.t), False, self.t == self.length, self._info()
        return self._act_up(result) if self.steps == self.at and self._is_due() else result

    def close(self):
        if self.kind == "close":
            raise RuntimeError("already closed")

    def _obs(self):
        if isinstance(self.observation_space, Box) and self.observation_space.shape == (2,):
            return np.array([self.t, self.steps], np.float32)
        return self.observation_space.sample()

    def _info(self) -> Any:
        match self.info:
            case "none":
                return {}
            case "lengths":
                return {"path": np.zeros(int(self.np_random.integers(1, 9)))}
            case "types":
                return {"thing": [None, "text", {"a": 1}, np.zeros(2), 1.5][int(self.np_random.integers(5))]}
            case "lambda":
                return {"function": lambda: None}
        return self.info

    def _is_due(self) -> bool:
        if self.kind in ("none", "close", "make", "space", "lack"):
            return False
        if self.times is None:
            return True
        for number in range(self.most):
            try:
                Path(self.times, str(number)).touch(exist_ok=False)
                return True
            except FileExistsError:
                continue
        return False

    def _act_up(self, result: tuple[Any, ...]) -> Any:
        at = {"obs": 0, "reward": 1, "terminated": 2, "truncated": 3}.get(self.kind)
        if at is not None and at < len(result):
            values = (OBSERVATIONS, REWARDS, FLAGS, FLAGS)[at]
            return (*result[:at], values[self.what], *result[at + 1 :])
        match self.kind, self.what:
            case "form", "4 values":
                return result[:4] if len(result) == 5 else (*result, 0, 0)
            case "form", "6 values":
                return (*result, None)
            case "form", "list":
                return list(result)
            case "form", "None":
                return None
            case "form", "obs":
                return result[0]
            case _, "raise":
                raise LookupError("joint\nlost")
            case _, "exit":
                sys.exit(0)
            case _, "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case _, "leave":
                os._exit(7)
            case _, "hang":
                while True:
                    time.sleep(0.05)
        return result


if "Faulty-v0" not in gym.registry:
    gym.register("Faulty-v0", FaultyEnv)
