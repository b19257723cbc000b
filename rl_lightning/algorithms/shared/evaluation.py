"""Evaluation: whole episodes of a policy, and what is reported of them."""

from collections.abc import Sequence

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torchmetrics import CatMetric

from rl_lightning.data.base import EnvironmentDataModule
from rl_lightning.environments.episodes import Act, play_episodes, record_episode
from rl_lightning.types import Episode


class Evaluation:
    """Plays episodes, and reports those of all processes.

    No module itself: a learner's modules are its networks, which Lightning lists.
    """

    def __init__(self) -> None:
        self._returns, self._lengths = CatMetric("disable"), CatMetric("disable")

    def play(self, act: Act, data: EnvironmentDataModule, seeds: Sequence[int], device: torch.device) -> None:
        """Play one episode for each seed.

        Args:
            act: the policy.
            data: whose environments of evaluation it plays in.
            seeds: of each episode's first reset.
            device: on which processes exchange what they report.
        """
        returns, lengths = play_episodes(act, data.eval_envs(), seeds, data.eval_limit)  # [E], [E]
        data.warn_of_cut_off(lengths.tolist())
        for metric, values in ((self._returns, returns), (self._lengths, lengths)):
            metric.to(device)
            metric.update(values.to(device).float())

    def report(self, learner: LightningModule, stage: str, env_steps: int) -> None:
        """Log mean and deviation of returns, and mean length, of the episodes of all processes; then forget them.

        Args:
            learner: that logs.
            stage: ``val`` or ``test``, with which the names begin.
            env_steps: of the run so far.
        """
        returns, lengths = (torch.as_tensor(each.compute()) for each in (self._returns, self._lengths))  # [E], [E]
        step = torch.tensor(env_steps, dtype=torch.float64, device=learner.device)  # float32 counts to 2^24
        row = {
            f"{stage}/return_mean": returns.mean(),
            f"{stage}/return_std": returns.std(correction=0),
            f"{stage}/episode_length_mean": lengths.mean(),
            "env_steps": step,
        }
        if learner.trainer.loggers:
            row["step"] = step  # what Lightning takes for the loggers' x-axis
        learner.log_dict(row, sync_dist=True)  # all have the same already; or Lightning warns of each
        self._returns.reset()
        self._lengths.reset()


def record(act: Act, data: EnvironmentDataModule, seeds: Sequence[int]) -> list[Episode]:
    """Play one episode for each seed, and return all of each.

    Args:
        act: the policy.
        data: whose environments of evaluation it plays in.
        seeds: of each episode's first reset.
    """
    episodes = [record_episode(act, data.eval_envs(), seed, data.eval_limit) for seed in seeds]
    data.warn_of_cut_off([len(episode.reward) for episode in episodes])
    return episodes


def warn_of_random_weights(algorithm: str) -> None:
    """Say that an evaluation is of a learner that has never learned.

    Warns:
        UserWarning: with what to do.
    """
    rank_zero_warn(
        f"{algorithm} is evaluated with the random weights it was made with: train it first, or give ckpt_path or "
        "load_weights a checkpoint"
    )
