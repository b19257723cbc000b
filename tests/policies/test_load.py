"""A policy that has left its learner acts as it did there: every learner, observation and action, seed by seed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from torch import nn
from trained import Trained, trained

from rl_lightning import (
    A2C,
    DDPG,
    DQN,
    PPO,
    REINFORCE,
    SAC,
    TD3,
    TRPO,
    ActorCritic,
    DiscreteSAC,
    Policy,
    SACv2,
    SoftQ,
    UsageError,
    export_policy,
    load_policy,
    make_env,
)
from rl_lightning.data.base import TEST_SEED
from rl_lightning.environments.episodes import play_episodes
from rl_lightning.spaces import to_numpy, to_tensor
from rl_lightning.types import map_obs


def network(in_features: int, out_features: int) -> nn.Module:
    """A body of the user's own, of layers that are known by name."""
    inner = nn.Sequential(nn.Linear(in_features, 8, bias=False), nn.LayerNorm(8), nn.GELU("tanh"), nn.Dropout(0.5))
    return nn.Sequential(inner, nn.RMSNorm(8), nn.LeakyReLU(0.3), nn.Linear(8, out_features))


def line_of(refusal: Any) -> str:
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# Returns of whole episodes


def returns_in_plain_gymnasium(policy: Policy, env_id: str, seeds: list[int]) -> list[float]:
    """As many environments side by side as evaluation has, so that the arithmetic of a batch is the same."""
    returns = []
    for first in range(0, len(seeds), 10):
        envs = [gym.make(env_id) for _ in seeds[first : first + 10]]
        shown = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds[first:], strict=False)]
        total, running = np.zeros(len(envs)), [*range(len(envs))]
        while running:
            actions = policy(map_obs(lambda *each: np.stack(each), *shown))
            for index in [*running]:
                shown[index], reward, terminated, truncated, _ = envs[index].step(actions[index])
                total[index] += reward
                if terminated or truncated:
                    running.remove(index)
        returns += total.astype(np.float32).tolist()
    return returns


@pytest.mark.parametrize(
    ("learner", "env_id", "settings"),
    [
        (SAC, "Pendulum-v1", {}),
        (DQN, "CartPole-v1", {}),
        (PPO, "Odd-v0", {"normalize_observations": True}),
        (TD3, "Odd-v0", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_twenty_episodes_in_plain_gymnasium_have_the_returns_of_test_seed_by_seed(
    tmp_path: Path, learner: Any, env_id: str, settings: dict[str, Any]
) -> None:
    one = trained(learner, env_id, **settings)
    folder = export_policy(one.save(tmp_path / "last.ckpt"), tmp_path / "exported")
    seeds = [*range(TEST_SEED, TEST_SEED + 20)]
    [reported] = one.trainer.test(one.model, datamodule=one.data, verbose=False)
    envs = one.data.eval_envs()
    with torch.no_grad():
        tested = [play_episodes(one.model.act_deterministically, envs, seeds[i : i + 10])[0] for i in (0, 10)]
    envs.close()
    returns = returns_in_plain_gymnasium(load_policy(folder), env_id, seeds)
    assert returns == torch.cat(tested).tolist()
    assert len(set(returns)) > 2, "episodes differ"
    assert np.mean(returns) == pytest.approx(reported["test/return_mean"], rel=1e-5)


# Actions of every learner, for observations and actions of every kind

CASES: dict[str, tuple[Any, str, dict[str, Any] | None, dict[str, Any]]] = {
    "SAC": (SAC, "Spaces-v0", {"action": "box"}, {}),
    "SAC with layers": (SAC, "Spaces-v0", {"action": "box"}, {"network": network}),
    "SACv2 of a Dict": (SACv2, "Odd-v0", None, {}),
    "TD3 of images": (TD3, "Spaces-v0", {"obs": "image", "action": "box"}, {}),
    "DDPG of numbers": (DDPG, "Spaces-v0", {"obs": "discrete", "action": "box"}, {}),
    "DQN of images, dueling": (DQN, "Images-v0", {"channels_last": False}, {"dueling": True}),
    "DQN from 2": (DQN, "DiscreteCounter-v0", None, {}),
    "SoftQ of a Dict": (SoftQ, "Spaces-v0", {"obs": "dict"}, {"ent_coef": 0.5}),
    "DiscreteSAC": (DiscreteSAC, "Spaces-v0", {"obs": "discrete"}, {}),
    "REINFORCE of switches": (REINFORCE, "Spaces-v0", {"action": "multi-binary"}, {}),
    "ActorCritic of choices": (ActorCritic, "Spaces-v0", {"action": "multi-discrete"}, {}),
    "A2C with σ(s)": (A2C, "Spaces-v0", {"action": "box"}, {"state_dependent_std": True, "network": network}),
    "PPO normalized": (PPO, "Odd-v0", None, {"normalize_observations": True, "normalize_returns": True}),
    "PPO of images": (PPO, "Images-v0", {"actions": "box"}, {"shared_trunk": True}),
    "TRPO": (TRPO, "Spaces-v0", {"obs": "dict", "action": "discrete"}, {}),
}


@pytest.fixture(scope="module", params=CASES, ids=lambda name: name)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, list[Policy], Any]:
    """A learner, its policy from a checkpoint and from an export, and a batch of observations as environments show."""
    learner, env_id, env_kwargs, settings = CASES[request.param]
    one = trained(learner, env_id, env_kwargs, **settings)
    place = tmp_path_factory.mktemp("case")
    checkpoint = one.save(place / "last.ckpt")
    policies = [load_policy(path, seed=3) for path in (checkpoint, export_policy(checkpoint, place / "exported"))]
    env = gym.make(env_id, **env_kwargs or {})
    shown = [env.reset(seed=seed)[0] for seed in range(6)]
    return one, policies, map_obs(lambda *each: np.stack(each), *shown)


def learners_actions(one: Trained, obs: Any, deterministic: bool) -> list[Any]:
    """What the learner gives, as the wrapper of `make_env` hands each to the environment."""
    env = make_env(one.data.env_id, one.data.env_kwargs)
    with torch.no_grad():
        actions = to_numpy(one.model.act(to_tensor(obs, env.observation_space), deterministic))
    to_environment = getattr(env.env, "func", lambda action: action)
    return [to_environment(action) for action in actions]


def test_it_acts_as_its_learner_in_the_environments_own_scale_and_dtype(case: Any) -> None:
    one, policies, obs = case
    expected = learners_actions(one, obs, deterministic=True)
    for policy in policies:
        actions = policy(obs)
        assert actions.dtype == policy.action_space.dtype
        np.testing.assert_array_equal(actions, np.stack(expected).astype(actions.dtype))
        assert all(policy.action_space.contains(action) for action in actions)
        assert policy.action_space == gym.make(one.data.env_id, **one.data.env_kwargs).action_space
        assert policy.observation_space == one.data.observation_space
    assert len(np.unique(actions, axis=0)) > 1 or isinstance(policy.action_space, Discrete), "actions differ"


def test_one_observation_gives_one_action(case: Any) -> None:
    _, [policy, _], obs = case
    for index, action in enumerate(policy(obs)):
        alone = policy(map_obs(lambda array, index=index: array[index], obs))
        assert policy.action_space.contains(alone)
        np.testing.assert_allclose(alone, action, rtol=1e-5, atol=1e-6)


def test_samples_are_the_learners_own_and_follow_the_seed(case: Any) -> None:
    one, policies, obs = case
    if isinstance(one.model, DQN | TD3 | DDPG):
        with pytest.raises(UsageError, match="has one action for each state; leave it out") as refusal:
            policies[0](obs, deterministic=False)
        line_of(refusal)
        return
    torch.manual_seed(3)
    expected = [np.stack(learners_actions(one, obs, deterministic=False)) for _ in range(3)]
    before = torch.get_rng_state()
    for policy in policies:
        for each in expected:
            actions = policy(obs, deterministic=False)
            np.testing.assert_array_equal(actions, each.astype(actions.dtype))
    assert torch.equal(before, torch.get_rng_state()), "torch's generator is not touched"


def test_a_step_carries_the_state_of_policies_to_come(case: Any) -> None:
    _, [policy, _], obs = case
    action, state = policy.step(obs, policy.initial_state())
    np.testing.assert_array_equal(action, policy(obs))
    assert state == {}


# What is refused


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(PPO, "Odd-v0").save(tmp_path_factory.mktemp("odd") / "last.ckpt")


def test_observations_that_are_none_of_the_space_are_refused_in_one_line(odd: Path) -> None:
    policy = load_policy(odd)
    good: dict[str, Any] = {"vector": np.zeros(2), "a.b": {"switches": np.zeros(2, np.int8), "count": 0}}
    assert policy(good).shape == (2,)
    for change, words in (
        ({"vector": np.zeros(3)}, "obs['vector'].shape=(3,) is not allowed: give (2,), or a batch"),
        ({"vector": np.array([0.0, np.nan])}, "obs['vector']='not finite' is not allowed"),
        ({"vector": ["a", "b"]}, "obs['vector'].dtype="),
        ({"vector": np.zeros((3, 2))}, "obs='one and several' is not allowed"),
        ({"a.b": 3}, "obs['a.b']='int' is not allowed: give a dict with the keys count, switches"),
        ({"a.b": {**good["a.b"], "count": 3}}, "obs['a.b']['count']=3 is not allowed: give numbers from -1 to 2"),
    ):
        with pytest.raises(UsageError) as refusal:
            policy(good | change)
        assert words in line_of(refusal)


class Own(nn.Module):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.layer = nn.Linear(in_features, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).sin()


class OwnAct(SAC):
    def act(self, obs: Any, deterministic: bool = False) -> torch.Tensor:
        return -super().act(obs, deterministic)


def test_a_network_or_an_act_of_the_users_own_is_refused_in_one_line_that_says_what_is_left(tmp_path: Path) -> None:
    own = trained(SAC, "Pendulum-v1", network=Own).save(tmp_path / "own.ckpt")
    for use in (load_policy, lambda path: export_policy(path, tmp_path / "exported")):
        with pytest.raises(UsageError, match=r"test_load.Own is no layer that is known by name; .*onnx") as refusal:
            use(own)
        line_of(refusal)
    with pytest.raises(UsageError, match="say in OwnAct which attribute is the network that its act acts by"):
        load_policy(trained(OwnAct, "Pendulum-v1").save(tmp_path / "own.ckpt"))
    assert not (tmp_path / "exported").exists()


def test_of_a_run_the_best_checkpoint_is_taken_or_else_the_last(tmp_path: Path, odd: Path) -> None:
    with pytest.raises(UsageError, match=r"it has neither policy\.json nor checkpoints/best.ckpt"):
        load_policy(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").write_bytes(odd.read_bytes())
    assert load_policy(tmp_path).description["algorithm"] == "PPO"
    trained(SAC, "Pendulum-v1").save(tmp_path / "checkpoints/best.ckpt")
    assert load_policy(tmp_path).description["algorithm"] == "SAC"


# Without the training packages

ALONE = """
import sys
import numpy as np
from rl_lightning import load_policy

obs = {"vector": np.zeros(2), "a.b": {"switches": np.zeros(2, np.int8), "count": 0}}
for path in sys.argv[1:]:
    print(load_policy(path)(obs).tolist())
training = {"lightning", "pytorch_lightning", "wandb", "torchmetrics", "jsonargparse", "rich"}
assert not training & {name.partition(".")[0] for name in sys.modules}, training & sys.modules.keys()
assert not [name for name in sys.modules if name.startswith(("gymnasium.envs.", "rl_lightning.env", "rl_lightning.alg"))
            and not name.startswith("gymnasium.envs.registration")]
"""


def test_it_acts_in_a_process_without_lightning_an_environment_or_the_training_packages(
    odd: Path, tmp_path: Path
) -> None:
    exported = export_policy(odd, tmp_path / "exported")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(odd), str(exported)], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second
