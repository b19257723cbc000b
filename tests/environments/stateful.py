"""Environments of users, as kind and as unkind as they come, to be captured and restored."""

import random
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete


class Mood(Enum):
    CALM = 1
    WILD = 2


class Place(NamedTuple):
    row: int
    grid: np.ndarray


@dataclass
class Robot:
    arm: np.ndarray
    friend: "Robot | None" = None
    load: list = field(default_factory=list)


@dataclass
class Brick:
    """Not there when an episode begins."""

    weight: float


class Slots:
    __slots__ = ("__hidden", "shown")

    def __init__(self):
        self.shown, self.__hidden = 0, 0

    def turn(self):
        self.shown, self.__hidden = self.__hidden + 1, self.shown + 2
        return self.shown


class Base(gym.Env):
    """Shows five numbers that depend on all that has happened so far; an episode of 17 steps."""

    def __init__(self):
        self.observation_space, self.action_space = Box(-np.inf, np.inf, (5,), np.float64), Discrete(3)
        self.t = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.begin()
        return self.show(0), {}

    def step(self, action):
        self.t += 1
        obs = self.show(int(action))
        return obs, float(obs.sum()), self.t % 17 == 0, False, {}

    def begin(self):
        pass


class PlainEnv(Base):
    """All kinds of plain data."""

    START = np.zeros(3)  # of the class: no environment may write to it

    def __init__(self):
        super().__init__()
        self.numbers = {"seen": 0, (1, 2): [1.5, {"deep": deque([1, 2, 3], maxlen=3)}], Mood.CALM: {1, 2}}
        self.vector = np.arange(3.0)
        self.same_vector, self.part = self.vector, self.vector[1:]
        self.mood, self.place = Mood.CALM, Place(0, np.zeros((2, 3), order="F"))
        self.small, self.tensor, self.raw = np.float32(0.1), torch.zeros(2, dtype=torch.bfloat16), b"ab"
        self.robots = [Robot(np.zeros(2)), Robot(np.ones(2))]
        self.robots[0].friend, self.robots[1].friend = self.robots[1], self.robots[0]
        self.counts, self.lists, self.order = Counter("aab"), defaultdict(list), OrderedDict(a=1)
        self.slots, self.dice, self.old = Slots(), random.Random(3), np.random.RandomState(4)
        self.torch_dice, self.own_dice = torch.Generator().manual_seed(5), np.random.default_rng(6)
        self.memory = None
        total = 0.0

        def remember(value):
            nonlocal total
            total = 0.5 * total + value
            return total

        self.remember = remember

    def begin(self):
        self.start = self.START
        self.numbers["seen"] += 1
        self.bricks = []

    def show(self, action):
        self.vector *= 0.9
        self.part[0] += action + self.own_dice.normal()
        if self.t:
            self.start = self.start + self.same_vector  # a new array: the class's stays
        self.numbers[(1, 2)][1]["deep"].append(self.dice.random())
        self.mood = Mood.WILD if self.old.rand() > 0.5 else Mood.CALM
        self.place = Place(self.place.row + self.mood.value, self.place.grid + self.t)
        self.small = np.float32(self.small * 1.01)
        self.tensor += torch.rand(2, generator=self.torch_dice)
        self.robots[0].friend.friend.arm += self.np_random.normal()
        self.bricks.append(Brick(self.np_random.random()))
        self.lists[action].append(self.slots.turn())
        self.memory = {"last": (self.memory or {}).get("last", 0) + self.t}
        return np.array(
            [
                self.vector.sum() + self.part[0] + self.start.sum() + sum(brick.weight for brick in self.bricks),
                sum(self.numbers[(1, 2)][1]["deep"]) + self.numbers["seen"] + self.place.row,
                self.place.grid.sum() + float(self.small) + self.tensor.sum().item(),
                self.robots[0].arm.sum() + sum(map(sum, self.lists.values())),
                self.remember(action) + self.memory["last"] + self.np_random.normal(),
            ]
        )


class OwnMethodsEnv(Base):
    """Its number lies in an object that is not plain data; says so by itself, but for the generator and the time."""

    def __init__(self, forgets: bool = False, returns: str = "plain"):
        super().__init__()
        self.local, self.forgets, self.returns = threading.local(), forgets, returns
        self.local.x, self.local.y = 0.0, 0.0

    def show(self, action):
        self.local.x = 0.9 * self.local.x + action + self.np_random.normal()
        self.local.y += action
        return np.full(5, self.local.x + self.local.y + self.t)

    def state_dict(self):
        if self.returns == "raises":
            raise OSError("no\nconnection")
        state = {"x": np.array(self.local.x), "t": self.t}
        state |= {} if self.forgets else {"y": (self.local.y,)}
        return state | ({"lock": threading.Lock()} if self.returns == "lock" else {})

    def load_state_dict(self, state):
        assert type(state) is dict
        self.local.x, self.t = float(state["x"]), state["t"]
        self.local.y = state["y"][0] if "y" in state else 0.0


class OwnWrapper(gym.Wrapper):
    """A wrapper with methods of its own, around an environment that needs none."""

    def __init__(self, env):
        super().__init__(env)
        self.local = threading.local()
        self.local.total = 0.0

    def step(self, action):
        obs, reward, *rest = self.env.step(action)
        self.local.total += reward
        return obs, self.local.total, *rest

    def state_dict(self):
        return {"total": self.local.total}

    def load_state_dict(self, state):
        self.local.total = state["total"]


class LocalEnv(OwnMethodsEnv):
    """Without the methods."""

    state_dict = load_state_dict = None


class FileEnv(Base):
    """Reads its numbers from an open file."""

    def __init__(self):
        super().__init__()
        self.file = Path(__file__).open()  # noqa: SIM115

    def show(self, action):
        return np.full(5, float(len(self.file.readline())))

    def close(self):
        self.file.close()


class IteratorEnv(Base):
    """A function with a state that no attribute shows."""

    def __init__(self):
        super().__init__()
        self.next = iter(range(10_000)).__next__

    def show(self, action):
        return np.full(5, float(self.next()))


class ClassCounterEnv(Base):
    """Counts in its class, for all environments of a process together."""

    count = 0

    def show(self, action):
        type(self).count += 1
        return np.full(5, float(self.count))


class GlobalNumbersEnv(Base):
    """Draws from the generators that all of a process shares."""

    def show(self, action):
        return np.array([np.random.rand(), random.random(), torch.rand(1).item(), 0.0, 0.0])


def minigrid(name: str) -> gym.Env:
    import minigrid  # noqa: F401
    from minigrid.wrappers import ImgObsWrapper

    return ImgObsWrapper(gym.make(name, disable_env_checker=True))


def wrapped(name: str = "CartPole-v1") -> gym.Env:
    """With each wrapper of Gymnasium that remembers something."""
    from gymnasium import wrappers

    env = wrappers.RecordEpisodeStatistics(gym.make(name, max_episode_steps=30))
    env = wrappers.NormalizeReward(wrappers.NormalizeObservation(wrappers.DelayObservation(env, 2)))
    env = wrappers.StickyAction(wrappers.TimeAwareObservation(env), 0.3)
    return wrappers.FlattenObservation(wrappers.FrameStackObservation(env, 3))


for name, entry_point in (
    ("Plain-v0", PlainEnv),
    ("OwnMethods-v0", OwnMethodsEnv),
    ("OwnWrapper-v0", lambda: OwnWrapper(PlainEnv())),
    ("Local-v0", LocalEnv),
    ("File-v0", FileEnv),
    ("Iterator-v0", IteratorEnv),
    ("ClassCounter-v0", ClassCounterEnv),
    ("GlobalNumbers-v0", GlobalNumbersEnv),
    ("Minigrid-v0", minigrid),
    ("Wrapped-v0", wrapped),
):
    if name not in gym.registry:
        gym.register(name, entry_point)
