"""Small real environments whose truth is known, and the shortest way to train on them."""

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from rl_lightning import MLP, SAC, ReplayDataModule, Transition
from rl_lightning.data import EnvironmentDataModule
from rl_lightning.environments.collector import Collector

Ending = Literal["terminate", "truncate", "both"]


class Step(NamedTuple):
    obs: np.ndarray
    action: np.ndarray
    reward: float
    next_obs: np.ndarray
    terminated: bool
    truncated: bool


class CounterEnv(gym.Env):
    """obs = (episode, t). Episodes differ in length and in how they end; every step is written down.

    A seeded reset draws the number of the first episode, so environments with different seeds differ.
    """

    made: ClassVar[list["CounterEnv"]] = []

    def __init__(self, length: int | None = None, reuse_array: bool = False):
        self.observation_space = Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = Box(np.array([-1, 0], np.float32), np.array([3, 10], np.float32))
        self.length, self.reuse_array = length, reuse_array
        self.array = np.zeros(2)
        self.episode = self.t = 0
        self.log: list[Step] = []
        self.seeds: list[int | None] = []
        self.closed = False
        CounterEnv.made.append(self)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.episode = self.episode + 1 if seed is None else self.first_episode(seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        before = np.array([self.episode, self.t], dtype=float)
        self.t += 1
        done = self.t == self.episode_length(self.episode, self.length)
        ending = self.episode % 3
        terminated, truncated = done and ending in (0, 2), done and ending in (1, 2)
        reward = float(self.t)
        after = np.array([self.episode, self.t], dtype=float)
        self.log.append(Step(before, np.array(action), reward, after, terminated, truncated))
        return self._obs(), reward, terminated, truncated, {}

    def close(self):
        self.closed = True

    def _obs(self):
        if not self.reuse_array:
            return np.array([self.episode, self.t], dtype=float)
        self.array[:] = self.episode, self.t
        return self.array

    @staticmethod
    def episode_length(episode: int, length: int | None = None) -> int:
        return length or 2 + episode % 5

    @staticmethod
    def first_episode(seed: int) -> int:
        return int(np.random.default_rng(seed).integers(1000)) * 1009  # exact in float32

    @classmethod
    def stepped(cls) -> list["CounterEnv"]:
        """Those that were stepped, in the order they were made: not the one that spaces are read from."""
        return [env for env in cls.made if env.log]


class RewardOneEnv(gym.Env):
    """Reward 1 in each of `length` steps; observations are one-hot of the step, the last state repeating."""

    def __init__(self, ending: Ending, length: int, states: int = 1):
        self.observation_space = Box(0.0, 1.0, (states,), np.float32)
        self.action_space = Box(-1.0, 1.0, (1,), np.float32)
        self.ending, self.length, self.states = ending, length, states

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        done = self.t == self.length
        return self._obs(), 1.0, done and self.ending != "truncate", done and self.ending != "terminate", {}

    def _obs(self):
        return np.eye(self.states, dtype=np.float32)[min(self.t, self.states - 1)]


class MatchEnv(gym.Env):
    """One step: see a number in [-1, 1], answer with it. Reward −(action − number)²."""

    def __init__(self):
        self.observation_space = Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number = self.np_random.uniform(-1.0, 1.0, 1).astype(np.float32)
        return self.number, {}

    def step(self, action):
        return self.number, -float(((action - self.number) ** 2).sum()), True, False, {}


class BoxActionEnv(gym.Env):
    """Any action space; remembers the last action it was given. Random observations and rewards, ten steps."""

    def __init__(self, low: Sequence[float], high: Sequence[float], dtype: str = "float32"):
        self.observation_space = Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = Box(np.array(low, dtype), np.array(high, dtype), dtype=np.dtype(dtype).type)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.given = action
        self.t += 1
        return self._obs(), float(self.np_random.normal()), False, self.t == 10, {}

    def _obs(self):
        return self.np_random.normal(size=3).astype(np.float32)


class BrokenEnv(gym.Env):
    """Keeps its contract up to step `at`, then breaks it in the way named by `fault`."""

    def __init__(self, fault: str = "none", at: int = 3):
        self.observation_space = Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = Box(-1.0, 1.0, (1,), np.float32)
        self.fault, self.at, self.steps = fault, at, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.fault == "raise in reset":
            raise RuntimeError("no socket")
        return np.full(2, np.nan if self.fault == "nan in reset" else 0.0, np.float32), {}

    def step(self, action):
        self.steps += 1
        obs, reward = np.zeros(2, np.float32), 0.0
        if self.steps == self.at:
            match self.fault:
                case "nan obs":
                    obs[1] = np.nan
                case "inf obs":
                    obs[0] = -np.inf
                case "nan reward":
                    reward = np.nan
                case "inf reward":
                    reward = np.inf
                case "no reward":
                    reward = None
                case "reward shape":
                    reward = np.zeros(1)
                case "obs shape":
                    obs = np.zeros(3, np.float32)
                case "raise":
                    raise RuntimeError("joint\nexploded")
        return obs, reward, False, False, {}


class SpacesEnv(gym.Env):
    """Any kind of observations and actions; refuses an action outside its space. Random rewards, five steps.

    Episodes end by turns in termination and in truncation.
    """

    OBSERVATIONS: ClassVar[dict[str, gym.Space]] = {
        "vector": Box(-np.inf, np.inf, (2,), np.float64),
        "image": Box(0, 255, (36, 36, 1), np.uint8),
        "discrete": Discrete(3, start=4),
        "dict": Dict({"vector": Box(-1.0, 1.0, (2,), np.float32), "number": Discrete(3, start=-1)}),
    }
    ACTIONS: ClassVar[dict[str, gym.Space]] = {
        "discrete": Discrete(3, start=5),
        "multi-discrete": MultiDiscrete([2, 3]),
        "multi-binary": MultiBinary(2),
        "box": Box(np.array([-1, 0], np.float32), np.array([3, 10], np.float32)),
    }

    def __init__(self, obs: str = "vector", action: str = "discrete"):
        self.observation_space = deepcopy(self.OBSERVATIONS[obs])
        self.action_space = self.ACTIONS[action]
        self.episodes = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.episodes, self.t = self.episodes + 1, 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        done, terminates = self.t == 5, self.episodes % 2 == 0
        reward = float(self.np_random.normal())
        return self.observation_space.sample(), reward, done and terminates, done and not terminates, {}


class BanditEnv(gym.Env):
    """One step: see one of three contexts, answer with it. Reward 1 for that, 0 for another answer."""

    def __init__(self):
        self.observation_space, self.action_space = Discrete(3), Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.context = int(self.np_random.integers(3))
        return self.context, {}

    def step(self, action):
        return self.context, float(action == self.context), True, False, {}


class DictCounterEnv(CounterEnv):
    """CounterEnv that shows what it counts as a Dict, nested: the vector, and t by itself, counted from 3."""

    def __init__(self, length: int | None = None, reuse_array: bool = False):
        super().__init__(length, reuse_array)
        vector = self.observation_space
        self.observation_space = Dict({"inner": Dict({"vector": vector}), "t": Discrete(8, start=3)})

    def _obs(self):
        return {"inner": {"vector": super()._obs()}, "t": self.t + 3}


class FailingEnv(CounterEnv):
    """CounterEnv that raises when it is reset, or at step `at`."""

    def __init__(self, fault: Literal["reset", "step"], at: int):
        super().__init__()
        self.fault, self.at = fault, at

    def reset(self, *, seed=None, options=None):
        if self.fault == "reset":
            raise OSError("lost")
        return super().reset(seed=seed, options=options)

    def step(self, action):
        if len(self.log) == self.at:
            raise OSError("lost")
        return super().step(action)


class DiscreteCounterEnv(CounterEnv):
    """CounterEnv that shows what it counts as one number, from 5 on, and takes the actions 2, 3 and 4."""

    def __init__(self, length: int | None = None):
        super().__init__(length)
        self.observation_space = Discrete(1000, start=5)
        self.action_space = Discrete(3, start=2)

    def step(self, action):
        assert action in self.action_space
        return super().step(action)

    def _obs(self):
        return 5 + self.episode % 100 * 10 + self.t


class ChoicesEnv(gym.Env):
    """Actions of any MultiDiscrete, counted from `start`; remembers the last one. Never ends."""

    def __init__(self, choices: Sequence[int], start: Sequence[int]):
        self.observation_space = Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = MultiDiscrete(choices, start=start)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.given = np.array(action)
        return np.zeros(1, np.float32), 0.0, False, False, {}


class ImagesEnv(gym.Env):
    """Random images of 36 x 36, the same ones whether their channels come last or first. Five steps."""

    def __init__(self, channels_last: bool = True, channels: int = 3, actions: Literal["discrete", "box"] = "discrete"):
        self.shape = (36, 36, channels)
        self.axes = (0, 1, 2) if channels_last else (2, 0, 1)
        self.observation_space = Box(0, 255, tuple(self.shape[axis] for axis in self.axes), np.uint8)
        self.action_space = Discrete(3) if actions == "discrete" else Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        return self._obs(), float(self.np_random.normal()), False, self.t == 5, {}

    def _obs(self):
        return self.np_random.integers(0, 256, self.shape, np.uint8).transpose(self.axes)


for name, entry_point in (
    ("Images-v0", ImagesEnv),
    ("Spaces-v0", SpacesEnv),
    ("Bandit-v0", BanditEnv),
    ("Counter-v0", CounterEnv),
    ("RewardOne-v0", RewardOneEnv),
    ("Match-v0", MatchEnv),
    ("BoxAction-v0", BoxActionEnv),
    ("Broken-v0", BrokenEnv),
    ("DictCounter-v0", DictCounterEnv),
    ("Failing-v0", FailingEnv),
    ("DiscreteCounter-v0", DiscreteCounterEnv),
    ("Choices-v0", ChoicesEnv),
):
    if name not in gym.registry:
        gym.register(name, entry_point)

TINY = partial(MLP, hidden_sizes=(8,))
LINEAR = partial(MLP, hidden_sizes=())

tiny_sac = partial(SAC, network=TINY, compile=False)
counter_data = partial(
    ReplayDataModule, env_id="toys:Counter-v0", learning_starts=12, total_env_steps=120, batch_size=8, buffer_size=1000
)
noise_data = partial(
    ReplayDataModule,
    "toys:BoxAction-v0",
    {"low": [-1.0, 0.0], "high": [3.0, 10.0]},
    learning_starts=12,
    total_env_steps=20,
    batch_size=8,
    buffer_size=1000,
)


def one_step(
    obs: Any, action: Tensor, reward: Tensor, next_obs: Any, terminated: Tensor, gamma: float = 0.99
) -> Transition:
    """Transitions of one step, all of weight 1."""
    return Transition(
        obs, action, reward, next_obs, terminated, torch.full_like(reward, gamma), torch.ones_like(reward)
    )


class TinyActor(nn.Module):
    """Acts in CounterEnv without a Trainer or a learner, and notes what it is shown and told.

    Attributes:
        seen: observations [num_envs, 2], one for each time it was asked.
        ended: where episodes had ended, [num_envs], each time that it was told.
    """

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.seen: list[Tensor] = []
        self.ended: list[np.ndarray] = []

    def act(self, obs: Tensor, deterministic: bool = False) -> Tensor:
        self.seen.append(obs.clone())
        return torch.tanh(self.linear(obs / 1000))

    def episodes_end(self, ended: np.ndarray) -> None:
        self.ended.append(ended.copy())


def make_collector(data: EnvironmentDataModule, processes: int = 1) -> Collector:
    """What EnvironmentInteraction makes, without a Trainer."""
    return Collector(data.train_envs(), TinyActor(), data.clock, range(data.num_envs + 1), processes)


class Rows(Logger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    name = version = property(lambda self: "rows")

    def log_hyperparams(self, *args: object) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append({name: value for name, value in metrics.items() if not name.startswith("time/")})


class GradientSteps(Callback):
    """Counts them."""

    def __init__(self):
        self.count = 0

    def on_gradient_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.count += 1


def make_trainer(
    callbacks: Sequence[Callback] = (),
    logger: Logger | Literal[False] = False,
    validate: bool = False,
    log_every_n_steps: int = 10,
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true",
    accelerator: str = "cpu",
) -> Trainer:
    return Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision,
        max_epochs=-1,
        callbacks=list(callbacks),
        logger=logger,
        log_every_n_steps=log_every_n_steps,
        limit_val_batches=None if validate else 0,
        num_sanity_val_steps=0,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
    )


def fit(model: LightningModule, data: LightningDataModule, trainer: Trainer | None = None) -> Trainer:
    trainer = trainer or make_trainer()
    trainer.fit(model, datamodule=data)
    return trainer
