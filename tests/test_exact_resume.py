"""A run that goes on from a checkpoint is the run that was never stopped: to the last bit, times aside."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import DelayObservation, TimeLimit
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim.lr_scheduler import LinearLR
from toys import Rows

from rl_lightning import (
    A2C,
    DDPG,
    DQN,
    MLP,
    PPO,
    REINFORCE,
    SAC,
    TD3,
    TRPO,
    ActionNoise,
    ActorCritic,
    DiscreteSAC,
    Freeze,
    OffPolicyCritic,
    QProp,
    ReplayDataModule,
    RolloutDataModule,
    RolloutReplayDataModule,
    SACv2,
    SoftQ,
)
from rl_lightning.data.base import EnvironmentDataModule
from rl_lightning.optim import EnvStepsLR

TINY = partial(MLP, hidden_sizes=(8,))
TOTAL = 240
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
Make = Callable[[], tuple[LightningModule, EnvironmentDataModule]]


class Killed(Exception):
    """What ends a run at once."""


class Moments(Callback):
    """Saves a checkpoint at the start of a training batch and ends the run there; else keeps the state it ends in."""

    def __init__(self, folder: Path, batch: int | None) -> None:
        self.folder, self.batch = folder, batch

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            trainer.save_checkpoint(self.folder / f"{self.batch}.ckpt")
            raise Killed

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.final = deepcopy(trainer._checkpoint_connector.dump_checkpoint(weights_only=False))


def run(
    make: Make,
    folder: Path,
    until: int | None = None,
    ckpt_path: Path | None = None,
    compile: bool = False,
    devices: int = 1,
    first: Callback | None = None,
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    seed_everything(3, verbose=False)
    model, data = make()
    model.compile_gradients = compile
    moments, rows = Moments(folder, until), Rows()
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="auto" if devices == 1 else "ddp",
        logger=rows,
        callbacks=[
            *([first] if first else []),
            moments,
            ModelCheckpoint(folder, filename="end", enable_version_counter=False),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        max_epochs=-1,
        log_every_n_steps=3,
    )
    with pytest.raises(Killed) if until is not None else nullcontext():
        trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    return getattr(moments, "final", {}), rows.rows


def assert_same(found: Any, expected: Any, path: str = "") -> None:
    """Bit for bit, whatever the nesting."""
    assert type(found) is type(expected), path
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key in expected:
            assert_same(found[key], expected[key], f"{path}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), path
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{path}/{index}")
    elif isinstance(expected, Tensor):
        assert found.dtype == expected.dtype, path
        assert torch.equal(found.nan_to_num(), expected.nan_to_num()), path
    else:
        assert found == expected or (found != found and expected != expected), f"{path}: {found} != {expected}"


def comparable(state: dict[str, Any]) -> dict[str, Any]:
    """Without names of files, nor environments, whose spaces have unseeded generators: playing on compares those."""
    callbacks = {name: saved for name, saved in state["callbacks"].items() if "ModelCheckpoint" not in name}
    loops = {name: saved for name, saved in state["loops"]["fit_loop"].items() if "val_loop" not in name}
    for process in state["environment_interaction"]["processes"]:
        process["collector"]["episodes"].pop("envs")
    return state | {"callbacks": callbacks, "loops": loops}


def assert_resumes_exactly(make: Make, folder: Path, batches: tuple[int, ...], compile: bool = False) -> None:
    """Ended at the start of each of these batches, and resumed each time, a run is the one that was never stopped."""
    expected, expected_rows = run(make, folder, compile=compile)
    assert len(expected_rows) > 5
    rows, ckpt_path = [], None
    for number in batches:
        rows += run(make, folder, number, ckpt_path, compile)[1]
        ckpt_path = folder / f"{number}.ckpt"
    final, last_rows = run(make, folder, None, ckpt_path, compile)
    assert_same(rows + last_rows, expected_rows, "rows")
    assert_same(comparable(final), comparable(expected))


def replay(env_id: str = "Pendulum-v1", **settings: Any) -> ReplayDataModule:
    given = {
        "total_env_steps": TOTAL,
        "env_steps_per_epoch": 60,
        "learning_starts": 40,
        "batch_size": 8,
        "eval_episodes": 1,
        "buffer_size": 1_000,
    }
    return ReplayDataModule(env_id, **given | settings)


def rollout(env_id: str = "CartPole-v1", **settings: Any) -> RolloutDataModule:
    given = {
        "total_env_steps": TOTAL,
        "env_steps_per_epoch": 60,
        "eval_episodes": 1,
        "rollout_steps": 10,
        "num_envs": 2,
    }
    return RolloutDataModule(env_id, **{"num_envs": 2} | given | settings)


def learner(kind: type, data: EnvironmentDataModule, **settings: Any) -> tuple[Any, EnvironmentDataModule]:
    return kind(data.observation_space, data.action_space, network=TINY, **settings), data


class Rests(TD3):
    """TD3 whose Q, and its target with it, stay as they are up to environment step 120."""

    def configure_callbacks(self) -> list[Callback]:
        return [*super().configure_callbacks(), Freeze(["q"], 120)]


class Shaky(gym.ObservationWrapper[Any, Any, Any]):
    """Its random numbers are its own, which no reset seeds."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.generator = np.random.default_rng(0)

    def observation(self, obs: Any) -> Any:
        return obs + self.generator.normal(size=obs.shape).astype(obs.dtype)


LEARNERS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "SAC": (lambda: learner(SAC, replay()), (7, 60, 61, 133)),
    "SAC, wrapped environment": (
        lambda: learner(
            SAC, replay(wrappers=[partial(DelayObservation, delay=2), partial(TimeLimit, max_episode_steps=25)])
        ),
        (60, 133),
    ),
    "SAC, evaluated in a wrapper with random numbers of its own": (
        lambda: learner(SAC, replay(wrappers=[Shaky])),
        (7, 133),
    ),
    "SACv2": (lambda: learner(SACv2, replay(num_envs=2, train_freq=2, replay_ratio=0.25)), (7, 15, 40)),
    "TD3": (lambda: learner(TD3, replay(), policy_delay=2), (8, 133)),
    "TD3, frozen at first": (lambda: learner(Rests, replay(), policy_delay=3), (8, 79, 80, 81)),
    "DDPG with OU noise": (lambda: learner(DDPG, replay(), noise=lambda: ActionNoise(0.3, correlation=0.9)), (8, 133)),
    "DQN": (
        lambda: learner(DQN, replay("CartPole-v1", n_step=3, priority_alpha=0.6), target_update_interval=7),
        (8, 133),
    ),
    "SoftQ": (lambda: learner(SoftQ, replay("CartPole-v1", num_envs=2)), (8, 77)),
    "DiscreteSAC": (lambda: learner(DiscreteSAC, replay("CartPole-v1", buffer_size=50)), (8, 133)),
    "SAC, wrapped buffer": (lambda: learner(SAC, replay(buffer_size=64, num_envs=3)), (7, 50)),
    "SAC, async": (lambda: learner(SAC, replay(num_envs=2, vectorization="async")), (7, 50)),
    "TD3, normalized, environments that step while it learns": (
        lambda: learner(
            TD3,
            replay(num_envs=2, vectorization="async", overlap=True, train_freq=2, n_step=3),
            normalize_observations=True,
            normalize_returns=True,
        ),
        (7, 8, 40),
    ),
    "DQN, stacked frames of Atari": (
        lambda: learner(
            DQN,
            replay("rl_lightning.atari:Atari-v0", total_env_steps=70, env_steps_per_epoch=70),
            target_update_interval=7,
        ),
        (8, 25),
    ),
    "TD3, MuJoCo": (lambda: learner(TD3, replay("Hopper-v5")), (8, 133)),
    "DQN, toy text": (lambda: learner(DQN, replay("FrozenLake-v1", env_kwargs={"map_name": "8x8"})), (8, 133)),
    "REINFORCE": (
        lambda: learner(REINFORCE, rollout(num_envs=1, rollout_steps=None, env_steps_per_batch=40)),
        (1, 2, 3),
    ),
    "ActorCritic": (lambda: learner(ActorCritic, rollout(num_envs=1, rollout_steps=1)), (7, 61, 133)),
    "A2C": (lambda: learner(A2C, rollout()), (2, 5, 9)),
    "A2C, vectorized CartPole": (lambda: learner(A2C, rollout(num_envs=6, vectorization="auto")), (1, 2, 3)),
    "PPO, normalized": (
        lambda: learner(
            PPO,
            rollout("Pendulum-v1"),
            normalize_observations=True,
            normalize_returns=True,
            n_epochs=2,
            batch_size=10,
            policy_scheduler=EnvStepsLR,
        ),
        (2, 5, 9),
    ),
    "TRPO": (lambda: learner(TRPO, rollout("Pendulum-v1"), batch_size=10), (2, 5, 9)),
    "Q-Prop": (
        lambda: learner(
            PPO,
            RolloutReplayDataModule(
                "Pendulum-v1",
                total_env_steps=TOTAL,
                env_steps_per_epoch=60,
                eval_episodes=1,
                rollout_steps=20,
                replay_batch_size=8,
            ),
            batch_size=10,
            estimator=QProp,
            critic=partial(OffPolicyCritic, network=TINY),
            gradient_variance=True,
        ),
        (2, 5, 9),
    ),
    "SAC with a schedule of torch": (
        lambda: learner(
            SAC, replay(), policy_scheduler=partial(LinearLR, start_factor=1.0, end_factor=0.1, total_iters=150)
        ),
        (33, 133),
    ),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_resumed_run_is_the_run_that_was_never_stopped(name: str, tmp_path: Path) -> None:
    make, batches = LEARNERS[name]
    assert_resumes_exactly(make, tmp_path, batches)


@pytest.mark.parametrize("name", ["SAC", "PPO, normalized"])
def test_compiled_gradients_resume_exactly_too(name: str, tmp_path: Path) -> None:
    make, batches = LEARNERS[name]
    assert_resumes_exactly(make, tmp_path, batches[-1:], compile=True)


def test_two_processes_resume_exactly_each_with_its_own_environments_and_replay(tmp_path: Path) -> None:
    def two_processes(*arguments: str) -> None:
        script = Path(__file__).with_name("two_processes.py")
        subprocess.run([sys.executable, script, tmp_path, *arguments], check=True, timeout=500, env=ONE_THREAD)

    two_processes()
    expected = torch.load(tmp_path / "final.pt", weights_only=True)[0]
    two_processes("--ckpt_path", str(tmp_path / "12.ckpt"))
    found = torch.load(tmp_path / "final.pt", weights_only=True)[0]
    own, others = found["ReplayDataModule"]["buffer"], found["ReplayDataModule"]["others"]
    assert len(others) == 1
    assert not torch.equal(own["memory"], others[0]["memory"])
    assert_same(found, expected)


class Opaque(gym.Env[Any, Any]):
    """Counts the steps of an episode in a generator, which nobody can look into or set."""

    observation_space = gym.spaces.Box(0.0, 100.0, (1,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = (float(step) for step in range(100))
        return np.array([next(self.steps)], np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        now = next(self.steps)
        return np.array([now], np.float32), 1.0, now == 30.0, False, {}


gym.register("Opaque-v0", Opaque)


def test_an_environment_that_cannot_be_restored_resumes_consistently_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def make() -> tuple[Any, EnvironmentDataModule]:
        return learner(DQN, replay("Opaque-v0", total_env_steps=120, env_steps_per_epoch=120))

    with caplog.at_level("INFO"):
        run(make, tmp_path, 10)
    [said] = [record.message for record in caplog.records if "Checkpoints resume" in record.message]
    assert said.startswith(
        "Checkpoints resume consistently, not exactly: episodes under way end as truncated (Opaque-v0: "
    )
    assert "steps" in said
    final, _ = run(make, tmp_path / "resumed", None, tmp_path / "10.ckpt")
    data = make()[1]
    data.setup("fit")
    data.load_state_dict(final["ReplayDataModule"])
    storage = data.buffer.storage
    now, later = storage.obs[: data.buffer.steps, 0, 0], storage.next_obs[: data.buffer.steps, 0, 0]
    assert torch.equal(later, now + 1)  # no row across episodes
    assert storage.truncated[: data.buffer.steps].nonzero()[:, 0].tolist() == [
        49
    ]  # the fiftieth step was the last before the checkpoint
    assert now[50] == 0.0
    assert now[49] == 19.0


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"env_kwargs": {"g": 15}}, "env_kwargs=\"{'g': 15}\" was '{}'"),
        ({"wrappers": [partial(TimeLimit, max_episode_steps=50)]}, "'max_episode_steps': 50}}]\" was '[]'"),
    ],
)
def test_a_checkpoint_whose_environment_has_other_arguments_now_begins_new_episodes_and_says_so(
    now: dict[str, Any], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(lambda: learner(SAC, replay(total_env_steps=100)), tmp_path, 10)
    with caplog.at_level("INFO"):
        run(
            lambda: learner(SAC, replay(total_env_steps=100, **now)),
            tmp_path / "resumed",
            None,
            tmp_path / "10.ckpt",
        )
    assert any(said in record.message for record in caplog.records)


def test_a_warm_up_that_was_interrupted_goes_on_where_it_was(tmp_path: Path) -> None:
    class Interrupt(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            data = trainer.datamodule
            store = data._store

            def store_and_interrupt(step: Any) -> None:
                store(step)
                data.clock.interrupted |= data.buffer.steps == 17

            data._store = store_and_interrupt

    make = LEARNERS["SAC"][0]
    expected, expected_rows = run(make, tmp_path)
    run(make, tmp_path, 0, first=Interrupt())
    begun = torch.load(tmp_path / "0.ckpt", weights_only=True)
    assert begun["ReplayDataModule"]["buffer"]["steps"] == 17
    final, rows = run(make, tmp_path, None, tmp_path / "0.ckpt")
    assert_same(rows, expected_rows, "rows")
    assert_same(comparable(final), comparable(expected))
