"""Films of evaluation episodes."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from rl_lightning.callbacks.environment_interaction import environment_data
from rl_lightning.callbacks.random_numbers import random_numbers, set_random_numbers
from rl_lightning.data.base import PREDICT_SEED, VAL_SEED
from rl_lightning.environments.videos import as_gif, check_filmed, film_episode
from rl_lightning.errors import require


class VideoRecorder(Callback):
    """Plays the first episodes of an evaluation once more, after it, and writes them to mp4 files.

    They are played in an environment of their own by the deterministic policy, from the same seeds, and random numbers
    are put back: no result changes. W&B gets them as `video` at their environment step, TensorBoard as moving pictures
    (GIF) of up to 30 seconds. In `predict` all episodes are filmed.

    Args:
        episodes: of each evaluation.
        every_evaluations: of how many evaluations one is filmed.
        dirpath: folder of the files; by default ``videos`` in the folder of the first logger, else of the trainer.

    Raises:
        UsageError: a number below 1; before the run, an environment that cannot be filmed here.
    """

    def __init__(self, episodes: int = 1, every_evaluations: int = 1, dirpath: str | None = None) -> None:
        for key, value in (("episodes", episodes), ("every_evaluations", every_evaluations)):
            require(value >= 1, f"VideoRecorder.{key}", value, "give 1 or more")
        self.episodes, self.every_evaluations, self.dirpath = episodes, every_evaluations, dirpath
        self._evaluations, self._is_checked = 0, False

    def check(self, data: Any) -> None:
        """Refuse an environment that cannot be filmed here.

        Raises:
            UsageError: saying what is missing.
        """
        if not self._is_checked:
            check_filmed(data.env_id, data.env_kwargs, data.wrappers)
        self._is_checked = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Film, where it is this evaluation's turn."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            if self._evaluations % self.every_evaluations == 0:
                self._film(trainer, pl_module, VAL_SEED, min(self.episodes, environment_data(trainer).eval_episodes))
            self._evaluations += 1

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Film what has been recorded."""
        self._film(trainer, pl_module, PREDICT_SEED, environment_data(trainer).eval_episodes)

    def _film(self, trainer: Trainer, learner: Any, first_seed: int, episodes: int) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        data = environment_data(trainer)
        folder = Path(self.dirpath or Path(trainer.log_dir or trainer.default_root_dir) / "videos")
        paths = [folder / f"{learner.env_steps}-{episode}.mp4" for episode in range(episodes)]
        drawn = random_numbers()
        for episode, path in enumerate(paths):
            act, seed = learner.act_deterministically, first_seed + episode
            film_episode(act, data.env_id, data.env_kwargs, seed, path, data.eval_limit, data.wrappers)
        set_random_numbers(drawn)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_video("video", [str(path) for path in paths], format=["mp4"] * episodes)
            elif isinstance(logger, TensorBoardLogger):
                _to_tensorboard(logger, paths, learner.env_steps)

    def state_dict(self) -> dict[str, Any]:
        """How many evaluations there have been."""
        return {"evaluations": self._evaluations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._evaluations = state_dict["evaluations"]


def _to_tensorboard(logger: TensorBoardLogger, paths: list[Path], env_steps: int) -> None:
    """Its own `add_video` takes arrays, and moviepy to encode them once more; a GIF is a picture to it."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    for episode, path in enumerate(paths):
        picture = Summary.Image(encoded_image_string=as_gif(path))
        row = Summary(value=[Summary.Value(tag=f"video/{episode}", image=picture)])
        logger.experiment.file_writer.add_summary(row, env_steps)
    logger.experiment.flush()
