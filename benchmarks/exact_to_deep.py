"""The library's learners on small maps, along the run beside exact values: docs/theory/exact_to_deep.md.

    python -m benchmarks.exact_to_deep OUTPUT
    python -m benchmarks.exact_to_deep_report OUTPUT docs/theory

Each run trains one learner on one map with one seed, through the Python API. After every EVERY environment steps the
networks are asked for all states at once, which gives a table of π and of Q or V; from the table, without an episode:

- the return of the policy, E[Σ γ^t r_t] from the start, by the linear system of its evaluation; for the learners with
  entropy of the policy they act by, for DQN of the greedy one;
- how far values are off, as a root mean square: Q of DQN from Q*, Q of the soft learners from the soft Q* at their α,
  over all actions in all states that can be reached, and once more weighted by how often replay has them; V of the
  on-policy learners from V of their own policy, weighted by how often that policy visits a state.

The discount is the oracle's and the learner's. "exact gradient" is no learner: it climbs with the closed form of ∇J,
by the same network, optimizer and rate as REINFORCE, in 2,500 steps, about as many as that has episodes on FrozenLake.
It shows what sampling costs, and where ∇J itself leads. A run that OUTPUT has is not run again.
"""

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor
from tqdm import tqdm

from benchmarks.learning import git_commit
from rl_lightning import (
    DQN,
    MLP,
    PPO,
    REINFORCE,
    ActorCritic,
    Algorithm,
    DiscreteSAC,
    EpsilonGreedy,
    ReplayDataModule,
    RolloutDataModule,
    SoftQ,
)
from rl_lightning.exact import (
    MDP,
    Solution,
    objective,
    policy_gradient,
    soft_policy_evaluation,
    soft_policy_improvement,
    soft_policy_iteration,
    state_occupancy,
)
from rl_lightning.optim import EnvStepsLR, FusedAdam

EVERY = 500


@dataclass(frozen=True)
class Task:
    """A map, and what is learned on it."""

    env_id: str
    env_kwargs: dict[str, Any]
    gamma: float
    ent_coef: float  # of the soft learners
    total_env_steps: int
    rate: float  # Adam's, of Q and of the on-policy V; it falls to 0 over the run

    def mdp(self) -> MDP:
        """Its tables; the time limit is none of the MDP's."""
        return MDP.from_env(gymnasium.make(self.env_id, **self.env_kwargs), self.gamma)


TASKS = {
    "frozen lake": Task("FrozenLake-v1", {}, 0.95, 0.01, 20_000, 2e-3),
    "cliff": Task("CliffWalking-v1", {"max_episode_steps": 100}, 0.95, 0.3, 20_000, 1e-2),
}
"""CliffWalking has no time limit of its own: episodes are cut off after 100 steps, and learners bootstrap there."""


def adam(rate: float) -> partial[FusedAdam]:
    """Adam, whose rate goes to 0 over the run."""
    return partial(FusedAdam, lr=rate)


POLICY_RATE = 3e-3
NETWORK = partial(MLP, hidden_sizes=(64,), activation="tanh")
DECAY = partial(EnvStepsLR, schedule="linear", final_factor=0.0)


def replay(task: Task, random_share: float = 0.025) -> ReplayDataModule:
    """A gradient step for every four environment steps, from all that has been seen; the first share is random."""
    starts = int(random_share * task.total_env_steps)
    return ReplayDataModule(
        task.env_id,
        task.env_kwargs,
        total_env_steps=task.total_env_steps,
        learning_starts=starts,
        train_freq=4,
        replay_ratio=0.25 if random_share < 0.5 else 0.5,  # as many gradient steps in what is left
        batch_size=64,
        buffer_size=task.total_env_steps,
        env_steps_per_batch=EVERY,
    )


def rollouts(
    task: Task, num_envs: int, rollout_steps: int | None, env_steps_per_batch: int = EVERY
) -> RolloutDataModule:
    """Rollouts of the present policy."""
    return RolloutDataModule(
        task.env_id,
        task.env_kwargs,
        num_envs=num_envs,
        total_env_steps=task.total_env_steps,
        rollout_steps=rollout_steps,
        env_steps_per_batch=env_steps_per_batch,
    )


def dqn(task: Task) -> tuple[Algorithm, Any]:
    """DQN; ε goes to 0.1 over half of the run."""
    data = replay(task)
    model = DQN(
        data.observation_space,
        data.action_space,
        gamma=task.gamma,
        target_update_interval=50,
        exploration=partial(EpsilonGreedy, final_eps=0.1, fraction=0.5),
        network=NETWORK,
        q_optimizer=adam(task.rate),
        q_scheduler=DECAY,
        compile=False,
    )
    return model, data


def soft_q(task: Task, random_share: float = 0.025) -> tuple[Algorithm, Any]:
    """Soft Q-learning at the task's α."""
    data = replay(task, random_share)
    model = SoftQ(
        data.observation_space,
        data.action_space,
        gamma=task.gamma,
        tau=1.0,
        target_update_interval=50,
        ent_coef=task.ent_coef,
        network=NETWORK,
        q_optimizer=adam(task.rate),
        q_scheduler=DECAY,
        compile=False,
    )
    return model, data


def discrete_sac(task: Task) -> tuple[Algorithm, Any]:
    """Discrete SAC at the task's α, which is not learned here."""
    data = replay(task)
    model = DiscreteSAC(
        data.observation_space,
        data.action_space,
        gamma=task.gamma,
        tau=0.02,
        ent_coef=task.ent_coef,
        ent_coef_optimizer=None,
        network=NETWORK,
        q_optimizer=adam(task.rate),
        policy_optimizer=adam(2e-3),
        q_scheduler=DECAY,
        policy_scheduler=DECAY,
        compile=False,
    )
    return model, data


def on_policy(
    kind: Callable[..., Algorithm],
    num_envs: int,
    rollout_steps: int | None,
    policy_rate: float,
    **settings: Any,
) -> Callable[[Task], tuple[Algorithm, Any]]:
    """A learner with π and V, without entropy in its objective."""

    def make(task: Task) -> tuple[Algorithm, Any]:
        data = rollouts(task, num_envs, rollout_steps)
        model = kind(
            data.observation_space,
            data.action_space,
            gamma=task.gamma,
            network=NETWORK,
            policy_optimizer=adam(policy_rate),
            value_optimizer=adam(task.rate),
            policy_scheduler=DECAY,
            value_scheduler=DECAY,
            **settings,
        )
        return model, data

    return make


LEARNERS: dict[str, Callable[[Task], tuple[Algorithm, Any]]] = {
    "DQN": dqn,
    "SoftQ": soft_q,
    "SoftQ, first half random": partial(soft_q, random_share=0.5),
    "DiscreteSAC": discrete_sac,
    "REINFORCE": on_policy(REINFORCE, 1, None, POLICY_RATE),
    "ActorCritic": on_policy(ActorCritic, 1, 1, 1e-3, compile=False),
    "PPO": on_policy(PPO, 5, 100, POLICY_RATE, batch_size=125, compile=False),
}
ALL = [*LEARNERS, "exact gradient"]
SOFT = ("SoftQ", "SoftQ, first half random", "DiscreteSAC")


def tables(model: Algorithm, states: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """π [S, A] as it acts (DQN: greedily), and Q [S, A] or V [S] of a learner, in float64."""
    obs = torch.arange(states)
    with torch.no_grad():
        if isinstance(model, DQN):
            q = model.q(obs).double()
            return soft_policy_improvement(q, 0.0), q, None
        if isinstance(model, SoftQ):
            q = model.q(obs).double()
            return soft_policy_improvement(q, model.ent_coef), q, None
        if isinstance(model, DiscreteSAC):
            return model.policy(obs).double().softmax(-1), torch.minimum(*model.q(obs)).double(), None
        networks: Any = model.networks
        return networks.distribution(obs).logits.double().softmax(-1), None, networks.values(obs).double()


def reachable(mdp: MDP) -> Tensor:
    """The states that a policy can be in: no hole, no goal, no cliff. [S] bool."""
    uniform = torch.full_like(mdp.reward, 1.0 / mdp.reward.shape[-1])
    return state_occupancy(mdp, uniform) > 1e-9


@dataclass(frozen=True)
class Row:
    """What one moment of a run has learned."""

    env_steps: int
    policy_return: float  # E[Σ γ^t r_t] of its policy from the start
    value_error: float  # root mean square: of Q, over what can be reached; of V, as often as it is visited
    seen_error: float | None = None  # of Q, as often as replay has it


class Measure(Callback):
    """Compares the learner's tables with exact ones after each training batch in which EVERY steps have passed."""

    def __init__(self, mdp: MDP, exact: Solution) -> None:
        self.mdp, self.exact = mdp, exact
        self.reachable = reachable(mdp)  # [S]
        self.rows: list[Row] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before anything is learned."""
        self.measure(pl_module, trainer.datamodule, 0)  # type: ignore[attr-defined]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """After each training batch."""
        if pl_module.env_steps - self.rows[-1].env_steps >= EVERY:  # type: ignore[operator]
            self.measure(pl_module, trainer.datamodule, pl_module.env_steps)  # type: ignore[attr-defined, arg-type]

    def measure(self, model: Any, data: Any, env_steps: int) -> None:
        """One row."""
        policy, q, v = tables(model, len(self.mdp.start))
        seen = None
        if q is not None:
            visits = visits_of(data, self.mdp.reward.shape)
            error = (q - self.exact.q).square()  # [S, A]
            square = error[self.reachable].mean()
            seen = float(((error * visits).sum() / visits.sum()).sqrt()) if visits.any() else None
        else:
            weight = state_occupancy(self.mdp, policy)
            truth = soft_policy_evaluation(self.mdp, policy, 0.0).v
            square = (weight * (v - truth).square()).sum() / weight.sum()
        self.rows.append(Row(env_steps, float(objective(self.mdp, policy, 0.0)), float(square.sqrt()), seen))


def visits_of(data: ReplayDataModule, shape: torch.Size) -> Tensor:
    """How often replay has each state with each action, [S, A]."""
    stored = data.buffer.storage
    steps = min(data.buffer.steps, data.buffer.rows)
    pair = stored.obs[:steps].flatten().long() * shape[1] + stored.action[:steps].flatten().long()
    return pair.bincount(minlength=shape.numel()).view(shape).double()


def train(task: Task, learner: str, seed: int) -> dict[str, Any]:
    """One run: its rows, the tables at its end, and its time."""
    mdp = task.mdp()
    exact = soft_policy_iteration(mdp, task.ent_coef if learner in SOFT else 0.0)
    seed_everything(seed, verbose=False)
    model, data = LEARNERS[learner](task)
    measure = Measure(mdp, exact)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[measure],
    )
    start = time.process_time()
    trainer.fit(model, data)
    policy, q, v = tables(model, len(mdp.start))
    return {
        "rows": [asdict(row) for row in measure.rows],
        "policy": policy.tolist(),
        "q": None if q is None else q.tolist(),
        "v": None if v is None else v.tolist(),
        "ends": int(data.buffer.storage.terminated.sum()) if isinstance(data, ReplayDataModule) else None,
        "cpu_seconds": time.process_time() - start,
        "commit": git_commit(),
    }


def climb(task: Task, seed: int, steps: int = 2500) -> dict[str, Any]:
    """The same for gradient ascent with the exact gradient; its rows count gradient steps."""
    mdp, states = task.mdp(), torch.arange(len(task.mdp().start))
    seed_everything(seed, verbose=False)
    model: Any = LEARNERS["REINFORCE"](task)[0]
    optimizer = torch.optim.Adam(model.networks.policy.parameters(), lr=POLICY_RATE)
    rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    rows, start = [], time.process_time()
    for step in range(steps + 1):
        logits = model.networks.distribution(states).logits  # [S, A]
        if step % 50 == 0:
            policy = logits.detach().double().softmax(-1)
            rows.append(asdict(Row(step, float(objective(mdp, policy, 0.0)), 0.0)))
        gradient = policy_gradient(mdp, logits.detach().double(), 0.0).float()
        optimizer.zero_grad()
        (-logits * gradient).sum().backward()  # whose gradient in the network's parameters is −∇J
        optimizer.step()
        rate.step()
    seconds = time.process_time() - start
    return {"rows": rows, "policy": policy.tolist(), "cpu_seconds": seconds, "commit": git_commit()}


def run_all(output: Path, tasks: list[str], learners: list[str], seeds: list[int]) -> None:
    """Every run that OUTPUT has not."""
    output.mkdir(parents=True, exist_ok=True)
    jobs = [(task, learner, seed) for seed in seeds for task in tasks for learner in learners]
    for task, learner, seed in tqdm(jobs, unit="run"):
        path = output / f"{task}-{learner}-{seed}.json".replace(" ", "_")
        if not path.exists():
            run = climb(TASKS[task], seed) if learner == "exact gradient" else train(TASKS[task], learner, seed)
            path.write_text(json.dumps(run))


def main() -> None:
    """Run what has not been run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of the runs")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--learners", nargs="+", choices=ALL, default=ALL)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    run_all(arguments.output, arguments.tasks, arguments.learners, arguments.seeds)


if __name__ == "__main__":
    main()
