"""Checkpoints are data: tensors and primitives, read with `weights_only=True`, checked before they are used."""

import pickle
import tempfile
from http.client import HTTPException
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from rl_lightning.errors import UsageError, one_line
from rl_lightning.types import State

KEY = "rl_lightning"  # where a checkpoint says whose it is


def signature(algorithm: object, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> dict[str, str]:
    """What a checkpoint must agree with: the algorithm's name, and both spaces as far as networks depend on them."""
    return {
        "algorithm": type(algorithm).__name__,
        "observation_space": _describe(observation_space),
        "action_space": _describe(action_space),
    }


def load_checkpoint(path: str | Path, expected: dict[str, str]) -> State:
    """Read a checkpoint of ours from a file or URL.

    Args:
        path: of a file that a run of this package saved.
        expected: the `signature` it must carry.

    Returns:
        The checkpoint, on the CPU.

    Raises:
        UsageError: where it is missing, damaged, not ours, or of another algorithm or other spaces.
    """
    file = local_file(path)
    try:
        checkpoint: State = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise UsageError(
            f"checkpoint {str(path)!r} does not exist: give a file, like those under a run's checkpoints/"
        ) from error
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError, KeyError) as error:
        raise UsageError(
            f"checkpoint {str(path)!r} cannot be read: it is truncated, or holds more than tensors and primitives; "
            "give an intact file that rl_lightning saved"
        ) from error
    if not isinstance(checkpoint, dict) or KEY not in checkpoint or "state_dict" not in checkpoint:
        raise UsageError(f"checkpoint {str(path)!r} is not one of rl_lightning's: give a file that its fit saved")
    check_signature(checkpoint[KEY], expected, str(path))
    return checkpoint


def local_file(path: str | Path) -> Path:
    """The path itself; a URL is fetched first, into a file that no other URL shares.

    Raises:
        UsageError: a URL that cannot be fetched.
    """
    if not str(path).startswith(("http://", "https://")):
        return Path(path)
    folder = Path(tempfile.mkdtemp(prefix="rl_lightning-"))
    try:
        torch.hub.download_url_to_file(str(path), str(folder / "downloaded.ckpt"))
    except (OSError, HTTPException, ValueError) as error:
        raise UsageError(f"checkpoint {str(path)!r} cannot be fetched: {one_line(error)}; check the URL") from error
    return folder / "downloaded.ckpt"


def check_signature(found: dict[str, str], expected: dict[str, str], path: str) -> None:
    """Refuse a checkpoint whose `signature` is another.

    Raises:
        UsageError: naming what differs.
    """
    for what, value in expected.items():
        if found.get(what) != value:
            raise UsageError(
                f"checkpoint {path!r} is of {what.replace('_', ' ')} {found.get(what)}, this run has {value}: "
                "give a checkpoint of the same, or change env_id or model"
            )


def _describe(space: gym.Space[Any]) -> str:
    # an observation's bounds do not reach the networks, and differ between versions of one environment
    if isinstance(space, gym.spaces.Box):
        return f"Box{tuple(space.shape)} {space.dtype}"
    return str(space)


def keep_settings(checkpoint: State, configured: Any) -> None:
    """Make a checkpoint's optimizers and schedulers continue with this run's settings, in place.

    Lightning would restore learning rates and the like along with the moments, over what a flag says now. Counters
    and moments stay; a learning rate under way in a schedule keeps its ratio to the initial one.

    Args:
        checkpoint: to be restored.
        configured: what `configure_optimizers` returns for this run.
    """
    for saved, entry in zip(checkpoint.get("optimizer_states", []), configured, strict=True):
        for saved_group, group in zip(saved["param_groups"], entry["optimizer"].param_groups, strict=True):
            # the share of the initial learning rate that the schedule has come to, if there is one then and now
            initial = saved_group.pop("initial_lr", None)
            progress = saved_group["lr"] / initial if initial and "initial_lr" in group else 1.0
            settings = {name: value for name, value in group.items() if name != "params"}
            saved_group.update(settings, lr=group.get("initial_lr", group["lr"]) * progress)
    checkpoint["lr_schedulers"] = [_counters(saved) for saved in checkpoint.get("lr_schedulers", [])]


def _counters(scheduler: State) -> State:
    """How far a scheduler has come, and those inside it (SequentialLR); everything else is a setting."""
    state: State = {name: scheduler[name] for name in ("last_epoch", "_step_count", "_last_lr") if name in scheduler}
    if "_schedulers" in scheduler:
        state["_schedulers"] = [_counters(inner) for inner in scheduler["_schedulers"]]
    return state
