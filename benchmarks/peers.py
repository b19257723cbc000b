"""The peer beside a learning result: Stable-Baselines3 or sb3-contrib on the same task, settings, seeds and episodes.

    python -m benchmarks.peers trpo/halfcheetah --seeds 0 1 --output OUT

The settings are those of the config of that name, as the peer spells them: separate networks of 64x64 tanh, the same
numbers of steps, epochs and minibatches, `VecNormalize` where ours normalizes. What cannot be the same is not: they
have one optimizer for policy and value where ours has two (PPO), and normalize with statistics that move during a
rollout. Each seed's final policy is evaluated on the 100 episodes, with the same seeds, that end our run.
"""

import argparse
import json
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import TRPO
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecNormalize
from tqdm import tqdm

from rl_lightning.data.base import TEST_SEED

TEST_EPISODES = 100


class Peer(NamedTuple):
    """What the peer is given."""

    make: partial[BaseAlgorithm]
    env_id: str
    num_envs: int
    total_env_steps: int
    normalize: bool
    gamma: float


def _sac(env_id: str, total_env_steps: int, learning_starts: int) -> Peer:
    """SAC as it comes, with one rate for all."""
    learner = partial(SAC, learning_rate=3e-4, learning_starts=learning_starts)
    return Peer(learner, env_id, num_envs=1, total_env_steps=total_env_steps, normalize=False, gamma=0.99)


PEERS = {
    "dqn/cartpole": Peer(
        partial(
            DQN,
            learning_rate=2.3e-3,
            buffer_size=100_000,
            learning_starts=1_000,
            batch_size=64,
            gamma=0.99,
            train_freq=256,
            gradient_steps=128,
            target_update_interval=10,  # environment steps, and only while collecting: once for each 128 gradient steps
            exploration_fraction=0.16,
            exploration_final_eps=0.04,
            policy_kwargs={"net_arch": [256, 256]},
        ),
        "CartPole-v1",
        num_envs=1,
        total_env_steps=50_000,
        normalize=False,
        gamma=0.99,
    ),
    "ppo/ant": Peer(
        partial(
            PPO,
            n_steps=512,
            batch_size=64,
            n_epochs=10,
            gamma=0.99,
            gae_lambda=0.9,
            learning_rate=lambda left: 3e-4 * left,
            policy_kwargs={"log_std_init": -1.0, "optimizer_kwargs": {"eps": 1e-5}},
        ),
        "Ant-v5",
        num_envs=4,
        total_env_steps=1_000_000,
        normalize=True,
        gamma=0.99,
    ),
    "ppo/lunar_lander": Peer(
        partial(
            PPO,
            n_steps=1024,
            batch_size=64,
            n_epochs=4,
            gamma=0.999,
            gae_lambda=0.98,
            ent_coef=0.01,
            learning_rate=lambda left: 3e-4 * left,
            policy_kwargs={"optimizer_kwargs": {"eps": 1e-5}},
        ),
        "LunarLander-v3",
        num_envs=16,
        total_env_steps=1_000_000,
        normalize=False,
        gamma=0.999,
    ),
    "ppo/pendulum": Peer(
        partial(PPO, n_steps=1024, batch_size=64, n_epochs=10, gamma=0.9, gae_lambda=0.95, learning_rate=1e-3),
        "Pendulum-v1",
        num_envs=4,
        total_env_steps=100_000,
        normalize=False,
        gamma=0.9,
    ),
    "sac_v2/halfcheetah": _sac("HalfCheetah-v5", 100_000, 5_000),  # as our config had it first: one rate for all
    "sac_v2/ant": _sac("Ant-v5", 100_000, 5_000),
    "sac_v2/hopper": _sac("Hopper-v5", 100_000, 5_000),
    "sac_v2/reacher": _sac("Reacher-v5", 20_000, 1_000),
    "td3/inverted_pendulum": Peer(
        partial(
            TD3,
            learning_rate=1e-3,
            learning_starts=1_000,
            batch_size=256,
            gamma=0.99,
            action_noise=NormalActionNoise(np.zeros(1), np.full(1, 0.1)),
            policy_kwargs={"net_arch": [256, 256]},
        ),
        "InvertedPendulum-v5",
        num_envs=1,
        total_env_steps=50_000,
        normalize=False,
        gamma=0.99,
    ),
    "trpo/halfcheetah": Peer(
        partial(
            TRPO,
            n_steps=1024,
            batch_size=128,
            gamma=0.99,
            gae_lambda=0.95,
            target_kl=0.04,
            cg_max_steps=25,
            cg_damping=0.1,
            n_critic_updates=20,
            learning_rate=1e-3,
        ),
        "HalfCheetah-v5",
        num_envs=2,
        total_env_steps=500_000,
        normalize=True,
        gamma=0.99,
    ),
}


def train(name: str, seed: int) -> dict[str, Any]:
    """Train one seed and evaluate its final policy."""
    torch.set_num_threads(1)
    peer = PEERS[name]
    envs: Any = make_vec_env(peer.env_id, peer.num_envs, seed=seed)
    if peer.normalize:
        envs = VecNormalize(envs, gamma=peer.gamma)
    start = time.monotonic()
    model = peer.make("MlpPolicy", envs, seed=seed, device="cpu")
    model.learn(peer.total_env_steps)
    normalize = envs.normalize_obs if peer.normalize else lambda obs: obs
    env = gym.make(peer.env_id)
    returns = [play(env, model, normalize, TEST_SEED + episode) for episode in range(TEST_EPISODES)]
    wall = time.monotonic() - start
    return {"seed": seed, "mean": float(np.mean(returns)), "std": float(np.std(returns)), "wall_seconds": wall}


def play(env: gym.Env[Any, Any], model: BaseAlgorithm, normalize: Any, seed: int) -> float:
    """The return of one episode with the deterministic policy."""
    obs, _ = env.reset(seed=seed)
    total, done = 0.0, False
    while not done:
        action, _ = model.predict(normalize(obs), deterministic=True)
        obs, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        done = terminated or truncated
    return total


def main() -> None:
    """Train every seed and print what was reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(PEERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time")
    parser.add_argument("--output", type=Path, required=True, help="folder for results.json")
    arguments = parser.parse_args()
    with ProcessPoolExecutor(arguments.parallel) as pool:
        jobs = [pool.submit(train, arguments.name, seed) for seed in arguments.seeds]
        done = [job.result() for job in tqdm(as_completed(jobs), total=len(jobs), unit="seed")]
    done.sort(key=lambda result: result["seed"])
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "results.json").write_text(json.dumps(done, indent=2))
    for result in done:
        print(
            f"seed {result['seed']}: {result['mean']:.1f} ± {result['std']:.1f}, {result['wall_seconds'] / 60:.1f} min"
        )
    means = [result["mean"] for result in done]
    print(f"over seeds: {statistics.fmean(means):.1f} ± {statistics.pstdev(means):.1f}")


if __name__ == "__main__":
    main()
