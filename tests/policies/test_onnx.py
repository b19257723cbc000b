"""A policy as a graph of ONNX: onnxruntime answers as torch does, whatever is observed and done."""

import json
import pickle
import sys
from hashlib import sha256
from pathlib import Path

import gymnasium as gym
import numpy as np
import onnxruntime
import pytest
import torch
from test_load import CASES, Own, line_of
from trained import trained

from rl_lightning import SAC, UsageError, export_policy, load_policy
from rl_lightning.spaces import to_tensor
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


def test_a_network_of_the_users_own_leaves_its_learner_as_a_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trained(SAC, "Odd-v0", network=Own)
    folder = export_policy(one.model, tmp_path / "exported", format="onnx")
    env = gym.make("Odd-v0")
    obs, _ = env.reset(seed=1)
    policy = load_policy(folder)
    with torch.no_grad():
        unit = one.model.act(map_obs(lambda part: part.unsqueeze(0), to_tensor(obs, env.observation_space)), True)
    np.testing.assert_allclose(policy(obs), [-1.0, 0.0] + (unit[0].numpy() + 1.0) / 2.0 * [4.0, 10.0], rtol=1e-5)

    session = onnxruntime.InferenceSession(folder / "policy.onnx")  # as another program has it
    inputs = {each.name: (each.type, each.shape[1:]) for each in session.get_inputs()}
    assert inputs == {
        "obs.a.b.count": ("tensor(int64)", []),
        "obs.a.b.switches": ("tensor(int8)", [2]),
        "obs.vector": ("tensor(float)", [2]),
    }
    assert [each.name for each in session.get_outputs()] == ["action"]

    for refused, words in (
        (lambda: policy(obs, deterministic=False), "a graph has no samples"),
        (lambda: export_policy(folder, tmp_path / "again"), "it is of ONNX already"),
    ):
        with pytest.raises(UsageError, match=words) as refusal:
            refused()
        line_of(refusal)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r'pip install "rl_lightning\[onnx\]"') as refusal:
        load_policy(folder)
    line_of(refusal)


def test_a_file_that_is_no_graph_is_refused_in_one_line(tmp_path: Path) -> None:
    one = trained(SAC, "Pendulum-v1")
    folder = export_policy(one.model, tmp_path / "exported", format="onnx")
    description = json.loads((folder / "policy.json").read_text())
    for content in (b"", b"no graph", pickle.dumps({})):
        (folder / "policy.onnx").write_bytes(content)
        description["weights"]["sha256"] = sha256(content).hexdigest()
        (folder / "policy.json").write_text(json.dumps(description))
        with pytest.raises(UsageError, match=r"cannot be read: .*; export it anew") as refusal:
            load_policy(folder)
        line_of(refusal)
