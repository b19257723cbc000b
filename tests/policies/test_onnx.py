"""A policy as a graph of ONNX: onnxruntime answers as torch does, whatever is observed and done."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from test_load import CASES
from trained import trained

from rl_lightning import export_policy, load_policy
from rl_lightning.types import map_obs

SOME = ("SAC with layers", "DQN of images, dueling", "ActorCritic of choices", "PPO normalized")


@pytest.mark.parametrize("name", SOME)
def test_the_graph_acts_as_the_learners_network_for_one_observation_and_any_number(tmp_path: Path, name: str) -> None:
    learner, env_id, env_kwargs, settings = CASES[name]
    checkpoint = trained(learner, env_id, env_kwargs, **settings).save(tmp_path / "last.ckpt")
    graph = load_policy(export_policy(checkpoint, tmp_path / "exported", format="onnx"))
    policy, env = load_policy(checkpoint), gym.make(env_id, **env_kwargs or {})
    for count in (1, 2, 5):
        shown = [env.reset(seed=seed)[0] for seed in range(count)]
        obs = map_obs(lambda *each: np.stack(each), *shown)
        actions = graph(obs)
        assert actions.dtype == policy(obs).dtype
        np.testing.assert_allclose(actions, policy(obs), rtol=1e-5, atol=1e-5)
        assert policy.action_space.contains(graph(shown[0]))
