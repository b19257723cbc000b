"""The callbacks of a run: the user's, and those that a run from the command line has beside them."""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import ModelSummary, ProgressBar

from rl_lightning.callbacks import EnvStepsProgressBar, VideoRecorder
from rl_lightning.callbacks.model_summary import NetworkSummary


def callbacks_of(config: Namespace, run_dir: Path | None) -> dict[str, Any]:
    """What the trainer is to be given of them: `callbacks`, and `enable_model_summary` where a table of ours stands in.

    Args:
        config: of the subcommand, whose classes have been made.
        run_dir: the folder where films go, unless they have another; None where there is none.
    """
    settings, callbacks = config.trainer, as_list(config.trainer.callbacks)
    for callback in callbacks:
        if isinstance(callback, VideoRecorder) and callback.dirpath is None and run_dir is not None:
            callback.dirpath = str(run_dir / "videos")
    has_bar, has_summary = (any(isinstance(each, kind) for each in callbacks) for kind in (ProgressBar, ModelSummary))
    added: list[Any] = []
    if settings.enable_progress_bar is not False and not has_bar:
        added.append(EnvStepsProgressBar())
    shows_networks = settings.enable_model_summary is not False and not has_summary
    if shows_networks:
        added.append(NetworkSummary())
    if settings.enable_checkpointing is not False:
        added.append(config.checkpoint)
    instead = {"enable_model_summary": False} if shows_networks else {}  # of Lightning's own
    return {"callbacks": [*callbacks, *added], **instead}


def as_list(value: Any) -> list[Any]:
    """Lightning's settings that take one item, several, or none (False and True included)."""
    if isinstance(value, list):
        return value
    return [] if value in (None, False, True) else [value]
