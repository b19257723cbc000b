"""Weights to start from: which saved tensors become which of a learner's, and which of them do not fit."""

from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from rl_lightning.checkpoints import KEY, check_signature, checkpoint_of_run, load_checkpoint, signature
from rl_lightning.errors import UsageError, require
from rl_lightning.networks import Temperature
from rl_lightning.networks.normalization import ObservationNormalizer, ReturnNormalizer
from rl_lightning.policies.description import check_described, check_description, network_and_spaces
from rl_lightning.policies.folder import DESCRIPTION, FILES, read_folder, weights_from_bytes
from rl_lightning.spaces import learners_actions
from rl_lightning.types import State

SHOWN = 4  # differences in a message


class Names(NamedTuple):
    """How tensors are called in a learner's `state_dict`; every prefix ends with a dot.

    Attributes:
        parts: prefixes of each part, its targets among them.
        targets: prefixes of target networks, each with its online network's.
        given: whole names of what a setting has fixed already.
    """

    parts: dict[str, list[str]]
    targets: dict[str, str]
    given: set[str]


def part_of(name: str, network: nn.Module) -> str:
    """What a learned network is called as a part: its name, or `temperature` whatever the learner calls that."""
    return "temperature" if isinstance(network, Temperature) else name


def names_in(model: nn.Module, declared: dict[str, nn.Module], targets: list[tuple[nn.Module, nn.Module]]) -> Names:
    """The names of a learner's tensors.

    Args:
        model: the learner.
        declared: its networks by name.
        targets: pairs (online, target).
    """
    named = list(model.named_modules(remove_duplicate=False))

    def prefixes(*modules: nn.Module) -> list[str]:
        return [f"{name}." for name, module in named if any(module is one for one in modules)]

    parts = {}
    for name, network in declared.items():
        parts[part_of(name, network)] = prefixes(network, *(target for online, target in targets if online is network))
    normalizers = [module for _, module in named if isinstance(module, ObservationNormalizer | ReturnNormalizer)]
    if normalizers:
        parts["normalizers"] = prefixes(*normalizers)
    follow = {of: to for online, target in targets for of, to in zip(prefixes(target), prefixes(online), strict=False)}
    given = {f"{name}.log_alpha" for name, module in named if isinstance(module, Temperature) and module.given}
    return Names(parts, follow, given)


def note_weights(learner: nn.Module, _: object) -> None:
    """Say in `has_loaded` that weights have been loaded; a hook of torch's."""
    learner.has_loaded = True  # type: ignore[assignment]


def initial_weights(
    path: str | Path,
    wanted: Sequence[str] | None,
    own: State,
    names: Names,
    expected: dict[str, str],
    describe: Callable[[], State],
) -> State:
    """What is wanted of saved networks, by a learner's names.

    Args:
        path: a run folder, a checkpoint's file or URL, or the folder of an export.
        wanted: parts to take, also of another algorithm; None takes all, of the same algorithm.
        own: the learner's `state_dict`.
        names: of its tensors.
        expected: the learner's `signature`.
        describe: the learner's `policy_description`.

    Raises:
        UsageError: a part that there is not; what cannot be read, is damaged, in ONNX, of other spaces, or whose
            tensors or layers differ; an export, where data cannot describe the learner's network; where all is
            wanted, networks of another algorithm.
    """
    if (Path(path) / DESCRIPTION).is_file():
        return _of_export(path, wanted, own, names, expected, describe())
    return _of_checkpoint(path, wanted, own, names, expected)


def _of_checkpoint(
    path: str | Path, wanted: Sequence[str] | None, own: State, names: Names, expected: dict[str, str]
) -> State:
    _check_wanted(wanted, names.parts, expected["algorithm"])
    checkpoint = load_checkpoint(checkpoint_of_run(path, "init_from"), {})
    found, saved = checkpoint[KEY], checkpoint["state_dict"]
    spaces = _without_algorithm(expected)
    if wanted is None:
        same_spaces = all(found.get(what) == space for what, space in spaces.items())
        fitting = [part for part in names.parts if same_spaces and not _differences([part], saved, own, names)]
        check_signature(found, expected, str(path), _advice(fitting) if fitting else "")
    else:
        check_signature(found, spaces, str(path))
    return _chosen(path, wanted, saved, own, names)


def _without_algorithm(expected: dict[str, str]) -> dict[str, str]:
    return {what: space for what, space in expected.items() if what != "algorithm"}


def _advice(fitting: Sequence[str]) -> str:
    return f"; of this one {', '.join(fitting)} would fit: give init_parts=[{','.join(fitting)}]"


def _of_export(
    path: str | Path,
    wanted: Sequence[str] | None,
    own: State,
    names: Names,
    expected: dict[str, str],
    description: State,
) -> State:
    """Of an export; targets become copies of their online networks."""
    _check_wanted(wanted, names.parts, expected["algorithm"])
    found, content = read_folder(Path(path))
    advice = "ONNX holds no network that learns; export with --format=safetensors, or give the checkpoint it came from"
    require(found["weights"]["file"] == FILES["safetensors"], "init_from", str(path), advice)
    check_description(found, str(path))
    check_described(found, str(path))
    if reason := description["network"].get("undescribed"):
        raise UsageError(
            f"init_from={str(path)!r} is an export, and this run's network is not one that can be compared with it: "
            f"{reason}; give the checkpoint that it came from"
        )
    weights = weights_from_bytes(content, str(path))
    network, (observation_space, action_space) = network_and_spaces(str(path), found, weights, len(content))
    whose = signature(found["algorithm"], observation_space, learners_actions(action_space)[0])
    check_signature(whose, _without_algorithm(expected), str(path))
    theirs = description["weights"]
    saved = {theirs.get(name, name): tensor for name, tensor in network.state_dict().items()}
    held = {name: own[name] for name in own if name in theirs.values() or _source(name, (), names) in theirs.values()}
    parts = [part for part in names.parts if _of_parts(held, [part], names)]
    if wanted is None:
        check_signature(whose, expected, str(path), "" if _differences(parts, saved, held, names) else _advice(parts))
    absent = [part for part in wanted or () if part not in parts]
    require(not absent, "init_parts", absent, f"{str(path)!r} is an export, which holds {', '.join(parts)} alone")
    chosen = _chosen(path, parts if wanted is None else wanted, saved, held, names)
    if wanted is None or set(wanted) != {"normalizers"}:
        there, here = (_layers(described["network"]) for described in (found, description))
        advice = "give the network it was trained with"
        require(there == here, "init_from", str(path), f"its layers are {there}, this run's are {here}; {advice}")
    return chosen


def _layers(network: State) -> str:
    """A policy's layers in words, as far as the shapes of its weights do not show them."""

    def words(body: State) -> str:
        if body["layer"] == "sequential":
            return ", ".join(map(words, body["layers"]))
        shown = {key: value for key, value in body.items() if key not in ("layer", "in_features", "out_features")}
        settings = ", ".join(f"{key}={value}" for key, value in shown.items())
        return f"{body['layer']}({settings})" if settings else str(body["layer"])

    return f"{network['kind']} [{'; '.join(map(words, network['bodies']))}]"


def _chosen(path: str | Path, wanted: Sequence[str] | None, saved: State, own: State, names: Names) -> State:
    """Saved tensors by the names of those that they become.

    Raises:
        UsageError: naming those that do not fit.
    """
    if differences := _differences(wanted, saved, own, names):
        more = f"; and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise UsageError(
            f"init_from={str(path)!r} holds other networks than this run's: {'; '.join(differences[:SHOWN])}{more}; "
            "give the network it was trained with"
        )
    chosen = [name for name in _of_parts(own, wanted, names) if name not in names.given]
    return {name: saved[_source(name, saved, names)] for name in chosen}


def _check_wanted(wanted: Sequence[str] | None, parts: Iterable[str], algorithm: str) -> None:
    if wanted is None:
        return
    advice = f"{algorithm} has the parts {', '.join(parts)}; give some of them, or leave it out for all"
    unknown = [part for part in wanted if part not in parts]
    require(bool(wanted) and not unknown, "init_parts", unknown or wanted, advice)


def _of_parts(tensors: Iterable[str], wanted: Sequence[str] | None, names: Names) -> list[str]:
    """The names that belong to the parts wanted; all where that is None."""
    if wanted is None:
        return list(tensors)
    prefixes = tuple(prefix for part in wanted for prefix in names.parts[part])
    return [name for name in tensors if name.startswith(prefixes)]


def _source(name: str, saved: Container[str], names: Names) -> str:
    """Where a tensor comes from: a target that was not saved begins as a copy of its online network."""
    if name not in saved:
        for target, online in names.targets.items():
            if name.startswith(target):
                return online + name.removeprefix(target)
    return name


def _differences(wanted: Sequence[str] | None, saved: State, own: State, names: Names) -> list[str]:
    """Where saved tensors do not fit, each as a few words; targets that were not saved are no difference."""
    here = {name: own[name] for name in _of_parts(own, wanted, names)}
    there = {name: saved.get(name if wanted is None else _source(name, saved, names)) for name in here}
    there |= {name: saved[name] for name in _of_parts(saved, wanted, names)}
    shapes = {name: (_shape(there.get(name)), _shape(here.get(name))) for name in {**here, **there}}
    return [f"{name}: {there} there, {here} here" for name, (there, here) in shapes.items() if there != here]


def _shape(tensor: Any) -> str:
    return str(list(tensor.shape)) if hasattr(tensor, "shape") else "none"
