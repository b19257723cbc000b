"""`load_policy` and `export_policy`: a policy from whatever holds one, and into a folder of its own."""

from pathlib import Path
from typing import Literal

from rl_lightning.checkpoints import KEY, load_checkpoint, local_file
from rl_lightning.errors import UsageError, require
from rl_lightning.policies.description import Learner, Weights, check_described, network_of, policy_from
from rl_lightning.policies.folder import (
    DESCRIPTION,
    FILES,
    check_place,
    read_folder,
    weights_from_bytes,
    weights_to_bytes,
    write_folder,
)
from rl_lightning.policies.policy import Policy
from rl_lightning.types import State

Format = Literal["safetensors", "onnx"]


def load_policy(path: str | Path, seed: int | None = None) -> Policy:
    """The policy of an export, a checkpoint or a run, to act anywhere: nothing of the training is needed.

    Args:
        path: a folder that `rl-lightning export` made; a checkpoint, as a file or URL; or a run's folder, of which the
            best checkpoint is taken, or else the last.
        seed: of samples, with ``deterministic=False``; None draws one.

    Returns:
        A function of observations; see `Policy`.

    Raises:
        UsageError: what is missing, damaged, not ours, or a policy whose network data cannot describe.
    """
    description, weights, limit = _read(policy_file(path), str(path))
    return policy_from(str(path), description, weights, limit, seed)


def policy_file(path: str | Path) -> Path:
    """The export's folder or the checkpoint's file that a path leads to.

    Raises:
        UsageError: a folder that holds neither.
    """
    place = local_file(path)
    if not place.is_dir() or (place / DESCRIPTION).exists():
        return place
    checkpoints = [place / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    found = next((file for file in checkpoints if file.exists()), None)
    advice = "it has neither policy.json nor checkpoints/best.ckpt; give an export, a checkpoint or a run's folder"
    require(found is not None, "path", str(path), advice)
    assert found is not None
    return found


def read_checkpoint(file: Path, name: str) -> tuple[State, Weights, int]:
    """What a checkpoint says of its policy, the policy's weights, and the file's size in bytes.

    Args:
        file: of the checkpoint.
        name: for messages.

    Raises:
        UsageError: what is no checkpoint of ours, or of a policy that data cannot describe.
    """
    checkpoint = load_checkpoint(file, {})
    state = checkpoint["state_dict"]
    try:
        description = checkpoint[KEY]["policy"]
        check_described(description, name)
        weights = {own: state[theirs] for own, theirs in description.pop("weights").items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"checkpoint {name!r} describes no policy: it is of an older version; train it anew"
        ) from error
    return description, weights, file.stat().st_size


def export_policy(
    source: str | Path | Learner, to: str | Path, format: Format = "safetensors", overwrite: bool = False
) -> Path:
    """Write a policy into a folder of its own: its weights, what they are, and a card.

    Args:
        source: what `load_policy` takes, or a learner in memory.
        to: the folder to make.
        format: of the weights. With `onnx` other programs act by them too, and a learner's network may be of any kind.
        overwrite: an older export in its place.

    Returns:
        The folder.

    Raises:
        UsageError: a source that `load_policy` refuses, a folder that is there already, or a network that cannot be
            written.
    """
    folder = Path(to)
    require(format in FILES, "format", format, f"give one of {', '.join(FILES)}")
    check_place(folder, overwrite)
    if isinstance(source, str | Path):
        place = policy_file(source)
        description, weights, limit = _read(place, str(source))
        policy_from(str(source), description, weights, limit, seed=None)  # refused here, or acts anywhere
        network = network_of(description, weights, limit)
    else:
        description, network = source.policy_description(), source.policy_network()
        description.pop("weights")
        if format != "onnx":
            check_described(description, type(source).__name__)
    content = weights_to_bytes(network.state_dict())
    write_folder(folder, description, content, format, overwrite)
    return folder


def _read(place: Path, name: str) -> tuple[State, Weights, int]:
    if not place.is_dir():
        return read_checkpoint(place, name)
    description, content = read_folder(place)
    return description, weights_from_bytes(content, name), len(content)
