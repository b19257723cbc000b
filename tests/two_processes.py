"""A run in two processes, whole and then to batch 12, or resumed: `python two_processes.py FOLDER [--ckpt_path F]`."""

import argparse
from pathlib import Path

import torch
from test_exact_resume import comparable, learner, replay, run

from rl_lightning import DDPG, ActionNoise

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--ckpt_path", type=Path)
args = parser.parse_args()
torch.set_num_threads(1)


def make():
    data = replay(num_envs=2, total_env_steps=160, env_steps_per_epoch=80, eval_episodes=2)
    return learner(
        DDPG,
        data,
        noise=lambda: ActionNoise(0.3, correlation=0.9),
        normalize_observations=True,
        normalize_returns=True,
    )


final, rows = run(make, args.folder, None, args.ckpt_path, devices=2)
if int(torch.distributed.get_rank()) == 0:
    torch.save((comparable(final), rows), args.folder / "final.pt")
if args.ckpt_path is None:
    run(make, args.folder, 12, None, devices=2)
