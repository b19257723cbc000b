"""A deep learner on a map whose values are known: it gets there, within a tolerance."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from benchmarks.exact_to_deep import Measure, Task, tables
from rl_lightning import MLP, DiscreteSAC, ReplayDataModule, SoftQ
from rl_lightning.exact import objective, soft_policy_iteration
from rl_lightning.optim import EnvStepsLR, FusedAdam

ADAM, DECAY = partial(FusedAdam, lr=5e-3), partial(EnvStepsLR, schedule="linear", final_factor=0.0)
COMMON = {
    "gamma": 0.8,
    "ent_coef": 0.1,
    "network": partial(MLP, hidden_sizes=(32,), activation="tanh"),
    "q_optimizer": ADAM,
    "q_scheduler": DECAY,
    "compile": False,
}
LEARNERS = {
    "SoftQ": partial(SoftQ, tau=1.0, target_update_interval=25, **COMMON),
    "DiscreteSAC": partial(
        DiscreteSAC, tau=0.05, policy_optimizer=ADAM, policy_scheduler=DECAY, ent_coef_optimizer=None, **COMMON
    ),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_soft_learners_come_near_the_exact_soft_values_of_a_small_map(name):
    options = {"desc": ["SFF", "FHF", "FFG"], "is_slippery": False, "max_episode_steps": 20}
    task = Task("FrozenLake-v1", options, gamma=0.8, ent_coef=0.1, total_env_steps=1600, rate=5e-3)
    mdp = task.mdp()
    exact = soft_policy_iteration(mdp, task.ent_coef)
    seed_everything(1, verbose=False)
    data = ReplayDataModule(
        task.env_id,
        task.env_kwargs,
        total_env_steps=task.total_env_steps,
        learning_starts=800,  # random: every action of every state is seen
        batch_size=64,
        env_steps_per_batch=500,
    )
    model = LEARNERS[name](data.observation_space, data.action_space)
    measure = Measure(mdp, exact)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    Trainer(accelerator="cpu", max_epochs=-1, limit_val_batches=0, callbacks=[measure], **quiet).fit(model, data)

    first, last = measure.rows[0], measure.rows[-1]
    assert last.value_error < 0.02 < 0.2 < first.value_error  # of Q, root mean square over all pairs
    policy, q, _ = tables(model, 9)
    inside = measure.reachable
    assert (q - exact.q)[inside].abs().max() < 0.06
    assert (policy - exact.policy)[inside].abs().max() < 0.12
    best = objective(mdp, exact.policy, task.ent_coef)
    torch.testing.assert_close(objective(mdp, policy, task.ent_coef), best, rtol=0.0, atol=0.005)
