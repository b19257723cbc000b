"""What a checkpoint says of itself, and how a run goes on from it."""

import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rl_lightning.checkpoints.file import read
from rl_lightning.errors import UsageError, one_line, require
from rl_lightning.types import State

KEY = "rl_lightning"  # where a checkpoint says whose it is
SCHEMA = 1  # of what stands there and in the states of our objects; 0 had no number
CYCLED = ("base_momentum", "max_momentum")  # notes in a group, between which torch's cyclic schedules move its momentum


def signature(algorithm: str, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> dict[str, str]:
    """What a checkpoint must agree with: the algorithm's name, and both spaces as far as networks depend on them.

    Args:
        algorithm: the name.
        observation_space: of the environment.
        action_space: of the learner.
    """
    return {
        "algorithm": algorithm,
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
        UsageError: where it is missing, damaged, not ours, of a newer program, or of another algorithm or other spaces.
    """
    checkpoint = read(local_file(path), str(path))
    if not isinstance(checkpoint, dict) or KEY not in checkpoint or "state_dict" not in checkpoint:
        raise UsageError(f"checkpoint {str(path)!r} is not one of rl_lightning's: give a file that its fit saved")
    check_schema(checkpoint, str(path))
    check_signature(checkpoint[KEY], expected, str(path))
    return checkpoint


def check_schema(checkpoint: State, path: str) -> None:
    """Refuse a checkpoint whose fields may mean something that this program does not know.

    Raises:
        UsageError: one that a newer program saved.
    """
    schema = checkpoint[KEY].get("schema", 0) if KEY in checkpoint else 0
    if schema > SCHEMA:
        raise UsageError(
            f"checkpoint {path!r} was saved by a newer rl_lightning (schema {schema}, this one reads up to {SCHEMA}): "
            "install that version"
        )


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


def checkpoint_of_run(path: str | Path, key: str, names: Sequence[str] = ("best", "last")) -> str | Path:
    """A path as it is; of a run folder the first of its checkpoints, by these names, that it has.

    Args:
        path: of a run folder, or a file or URL.
        key: the setting as the user spells it.
        names: of checkpoints.

    Raises:
        UsageError: a folder without such a checkpoint.
    """
    if not Path(path).is_dir():
        return path
    found = [file for name in names if (file := Path(path) / "checkpoints" / f"{name}.ckpt").is_file()]
    advice = f"the folder has no {' or '.join(f'checkpoints/{name}.ckpt' for name in names)}; give a run's, or a file"
    require(bool(found), key, str(path), advice)
    return found[0]


def check_signature(found: dict[str, str], expected: dict[str, str], path: str, advice: str = "") -> None:
    """Refuse a checkpoint whose `signature` is another.

    Args:
        found: the checkpoint's.
        expected: this run's.
        path: of the checkpoint.
        advice: what else could be given.

    Raises:
        UsageError: naming all that differs.
    """
    differences = [
        f"of {what.replace('_', ' ')} {found.get(what)}, this run has {value}"
        for what, value in expected.items()
        if found.get(what) != value
    ]
    if differences:
        raise UsageError(
            f"checkpoint {path!r} is {'; '.join(differences)}: give a checkpoint of the same, or change env_id or "
            f"model{advice}"
        )


def check_networks(
    saved: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str, causes: Sequence[str] = ()
) -> None:
    """Refuse a checkpoint of other networks than the run's.

    Args:
        saved: the checkpoint's tensors by name.
        own: the learner's.
        path: of the checkpoint.
        causes: settings that may be why, with both values.

    Raises:
        UsageError: with the causes and the first tensor that differs.
    """
    shapes, own_shapes = ({name: [*tensor.shape] for name, tensor in each.items()} for each in (saved, own))
    name = next((name for name in {**shapes, **own_shapes} if shapes.get(name) != own_shapes.get(name)), None)
    if name is None:
        return
    tensor = f"{name} is {shapes.get(name, 'not there')} in it, {own_shapes.get(name, 'not there')} here"
    if causes:
        raise UsageError(
            f"{', '.join(causes)} is not allowed with checkpoint {path!r}, whose networks differ: {tensor}"
        )
    raise UsageError(f"checkpoint {path!r} is of other networks: {tensor}; give the settings that it was trained with")


def check_resumable(checkpoint: State, path: str) -> None:
    """Refuse to go on from weights alone: moments, counters and callbacks would silently start anew.

    Raises:
        UsageError: where optimizers were left out (`save_weights_only`).
    """
    require("optimizer_states" in checkpoint, "ckpt_path", path, "it holds weights only; give it as init_from")


def _describe(space: gym.Space[Any]) -> str:
    # an observation's bounds do not reach the networks, and differ between versions of one environment
    if isinstance(space, gym.spaces.Box):
        return f"Box{tuple(space.shape)} {space.dtype}"
    return str(space)


class Continued(NamedTuple):
    """An optimizer of this run, made anew, that a checkpoint may go on from.

    Its parameters and those in the checkpoint are matched by name, groups and order aside.
    """

    optimizer: Optimizer
    scheduler: LRScheduler | None
    parameters: dict[int, str]  # names in the network, by id

    def describe(self) -> State:
        """What a checkpoint says of it, to be matched with a later run's; taken when the optimizer is new.

        The scheduler's first state tells what in a later one is a counter: whatever has changed since.
        """
        groups = self.optimizer.param_groups
        return {
            "optimizer": _kind(self.optimizer),
            "groups": [[self.parameters[id(parameter)] for parameter in group["params"]] for group in groups],
            "scheduler": _kind(self.scheduler) if self.scheduler else None,
            "first_state": deepcopy(self.scheduler.state_dict()) if self.scheduler else {},
        }


def continue_optimizers(checkpoint: State, described: dict[str, State], own: dict[str, Continued]) -> None:
    """Make a checkpoint's optimizers and schedulers those of this run, with this run's settings, in place.

    Lightning would restore learning rates and the like along with the moments, over what a flag says now, and match by
    position. Moments and counters go on; a learning rate under way in a schedule keeps its ratio to the initial one.
    What the checkpoint lacks, or has of another kind, begins anew.

    Args:
        checkpoint: to be restored by Lightning.
        described: of the checkpoint's optimizers by name, in the order in which they were saved.
        own: this run's by name, in the order in which Lightning restores them.

    Warns:
        UserWarning: an optimizer or scheduler of another kind.
    """
    saved_optimizers = dict(zip(described, checkpoint["optimizer_states"], strict=True))
    with_scheduler = [name for name, description in described.items() if description["scheduler"]]
    saved_schedulers = dict(zip(with_scheduler, checkpoint["lr_schedulers"], strict=True))
    checkpoint["optimizer_states"], checkpoint["lr_schedulers"] = [], []
    for name, one in own.items():
        before, now = described.get(name), one.describe()
        for part in ("optimizer", "scheduler"):
            if before and before[part] and now[part] and before[part] != now[part]:
                from lightning.pytorch.utilities import rank_zero_warn  # here: `load_policy` does without Lightning

                rank_zero_warn(
                    f"{name}_{part} was {before[part]} in the checkpoint, is {now[part]} now: it begins anew"
                )
        same_optimizer = before is not None and before["optimizer"] == now["optimizer"]
        same_scheduler = before is not None and one.scheduler is not None and before["scheduler"] == now["scheduler"]
        state = one.optimizer.state_dict()
        if before is not None and same_optimizer:
            state = _moments(saved_optimizers[name], before["groups"], state, now["groups"], with_rates=same_scheduler)
        checkpoint["optimizer_states"].append(state)
        if one.scheduler is not None:
            counted = one.scheduler.state_dict()
            if before is not None and same_scheduler:
                counted = moved_on(counted, saved_schedulers[name], before["first_state"])
            checkpoint["lr_schedulers"].append(counted)


def _moments(saved: State, saved_names: list[list[str]], own: State, names: list[list[str]], with_rates: bool) -> State:
    """An optimizer's state with the settings of `own` and the moments of `saved`, parameter by parameter.

    Args:
        saved: a checkpoint's `state_dict` of an optimizer.
        saved_names: of the parameters in each of its groups.
        own: the new optimizer's.
        names: of the parameters in each of its groups.
        with_rates: keep the share of the initial learning rate that the schedule has come to, and where it moves the
            momentum too, that.
    """
    place, group_of = {}, {}
    for group, its_names in zip(saved["param_groups"], saved_names, strict=True):
        for name, index in zip(its_names, group["params"], strict=True):
            place[name], group_of[name] = index, group
    state = {}
    for group, its_names in zip(own["param_groups"], names, strict=True):
        for name, index in zip(its_names, group["params"], strict=True):
            if name in place and place[name] in saved["state"]:
                state[index] = saved["state"][place[name]]
        before = group_of.get(its_names[0])
        if with_rates and before and before.get("initial_lr") and "initial_lr" in group:
            same = group["initial_lr"] == before["initial_lr"]  # then to the last bit
            group["lr"] = before["lr"] if same else group["initial_lr"] * (before["lr"] / before["initial_lr"])
        if with_rates and before and "max_momentum" in group and all(before.get(end) == group[end] for end in CYCLED):
            if "betas" in group:
                group["betas"] = (before["betas"][0], *group["betas"][1:])
            else:
                group["momentum"] = before["momentum"]
    return {**own, "state": state}


def moved_on(own: Any, saved: Any, first: Any) -> Any:
    """A state that goes on: of `saved` whatever has changed since it was `first`, of `own` all the rest.

    What a run changes is a counter; what it leaves alone is a setting, and those are this run's.
    """
    if isinstance(own, dict) and isinstance(saved, dict) and isinstance(first, dict):
        new = {key: value for key, value in saved.items() if key not in own and key not in first}
        both = {key: moved_on(value, saved.get(key, value), first.get(key)) for key, value in own.items()}
        return both | new
    if isinstance(saved, list | tuple) and all(type(x) is type(saved) and len(x) == len(saved) for x in (own, first)):
        return type(saved)(moved_on(*parts) for parts in zip(own, saved, first, strict=True))
    changed = (
        not torch.equal(saved, first) if isinstance(saved, Tensor) and isinstance(first, Tensor) else saved != first
    )
    return saved if changed else own


def _kind(made: object) -> str:
    """The class, or for one of our optimizers the class of torch whose state it has."""
    bases = type(made).__mro__
    torchs = next((base for base in bases if base.__module__.startswith("torch.")), type(made))
    kind = torchs if type(made).__module__.startswith("rl_lightning.fast") else type(made)
    return f"{kind.__module__}.{kind.__qualname__}"
