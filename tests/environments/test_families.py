"""Environments that others wrote run, evaluate and are recorded, as the table of docs/environments.md says."""

import re
import warnings
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from toys import TINY, fit, make_trainer

from rl_lightning import DQN, PPO, SAC, ReplayDataModule, RolloutDataModule, make_env
from rl_lightning.environments.state import why_not_restorable

PAGE = (Path(__file__).parents[2] / "docs/environments.md").read_text()
SHORT = partial(wrappers.TimeLimit, max_episode_steps=12)
NO_WORDS = partial(wrappers.FilterObservation, filter_keys=["image", "direction"])
SMALLER = partial(wrappers.ResizeObservation, shape=(48, 48))

FAMILIES = [  # package, id, wrappers, learner, whether play goes on exactly
    ("minigrid", "minigrid:MiniGrid-Empty-5x5-v0", [NO_WORDS], PPO, True),
    ("highway_env", "highway_env:highway-fast-v0", [], DQN, True),
    ("gymnasium_robotics", "gymnasium_robotics:PointMaze_UMaze-v3", [], SAC, True),
    ("popgym", "popgym:popgym-RepeatPreviousEasy-v0", [], PPO, True),
    ("Box2D", "LunarLander-v3", [], DQN, False),
    ("Box2D", "CarRacing-v3", [SMALLER], SAC, False),
    ("ale_py", "ale_py:ALE/Breakout-v5", [SMALLER], PPO, True),
    ("ale_py", "rl_lightning.atari:Atari-v0", [], DQN, True),
    ("gymnasium", "Blackjack-v1", [], DQN, True),
    ("gymnasium", "Taxi-v4", [], PPO, True),
    ("mujoco", "HalfCheetah-v4", [], SAC, True),
    ("mujoco", "HalfCheetah-v5", [], SAC, True),
]


@pytest.mark.parametrize(
    ("package", "env_id", "around", "kind", "is_exact"), FAMILIES, ids=[row[1] for row in FAMILIES]
)
def test_an_environment_of_the_table_is_learned_from_evaluated_and_recorded(package, env_id, around, kind, is_exact):
    pytest.importorskip(package)
    assert f"`{env_id}`" in PAGE
    given = {"total_env_steps": 24, "eval_episodes": 1, "env_steps_per_epoch": 24, "wrappers": [*around, SHORT]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of theirs
        if kind is PPO:
            data = RolloutDataModule(env_id, rollout_steps=12, **given)
        else:
            data = ReplayDataModule(env_id, learning_starts=20, batch_size=4, **given)
        settings = {"batch_size": 12} if kind is PPO else {}
        model = kind(data.observation_space, data.action_space, network=TINY, compile=False, **settings)
        trainer = make_trainer(validate=True)
        fit(model, data, trainer)
        assert model.env_steps == 24
        assert trainer.callback_metrics["val/episode_length_mean"] <= 12
        [[episode]] = trainer.predict(model, data)
        assert len(episode.reward) <= 12


@pytest.mark.parametrize(
    ("package", "env_id", "around"),
    [(row[0], row[1], row[2]) for row in FAMILIES if row[0] in ("highway_env", "popgym")],
)
def test_families_that_no_other_test_tries_go_on_exactly(package, env_id, around):
    pytest.importorskip(package)
    assert why_not_restorable(env_id, wrappers=around) is None


# The page's own files


@pytest.fixture(scope="module")
def files():
    scope = {}
    for code in re.findall(r'```python title="\w+\.py"\n(.*?)```', PAGE, flags=re.DOTALL):
        exec(code, scope)
    return scope


class Goals(gym.Env):
    """A goal Dict, and actions in a Dict of Boxes."""

    observation_space = gym.spaces.Dict(
        {
            name: gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
            for name in ("observation", "achieved_goal", "desired_goal")
        }
    )
    action_space = gym.spaces.Dict(
        {"b": gym.spaces.Box(-2.0, 2.0, (1, 2), np.float32), "a": gym.spaces.Box(0.0, 1.0, (1,), np.float32)}
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"observation": np.array([1.0, 2]), "achieved_goal": np.zeros(2), "desired_goal": np.array([3.0, 5])}, {}

    def step(self, action):
        self.given = action
        return self.reset()[0], 0.0, False, False, {}


gym.register("Goals-v0", Goals)


def test_the_wrappers_of_the_page_do_what_they_say(files):
    env = make_env("Goals-v0", wrappers=[partial(files["Relative"], scale=2.0), files["OneBox"]])
    assert env.reset()[0].tolist() == [1, 2, 6, 10]
    env.step(np.array([0.0, 1, -1], np.float32))  # a in [0, 1], then b in [-2, 2]
    given = env.unwrapped.given
    assert (given["a"].tolist(), given["b"].tolist()) == ([0.5], [[2, -2]])
    assert env.unwrapped.action_space.contains(given)


def test_the_encoder_of_the_page_works_with_the_networks_of_a_learner(files):
    from rl_lightning.networks import WithEncoders

    space = gym.spaces.Dict({"image": gym.spaces.Box(0, 10, (7, 7, 3), np.uint8), "direction": gym.spaces.Discrete(4)})
    learner = PPO(
        space,
        gym.spaces.Discrete(3),
        network=partial(WithEncoders, encoders={"obs.image": files["Kinds"]}),
        compile=False,
    )
    assert learner.networks.policy[0].out_features == 7 * 7 * 8 + 4
