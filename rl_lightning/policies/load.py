"""`load_policy` and `export_policy`: a policy from whatever holds one, and into a folder of its own."""

from copy import deepcopy
from pathlib import Path
from typing import Literal

from rl_lightning.checkpoints import KEY, load_checkpoint, local_file
from rl_lightning.errors import UsageError, require
from rl_lightning.policies.description import (
    Learner,
    Weights,
    check_described,
    check_description,
    policy_from,
    spaces_of,
)
from rl_lightning.policies.folder import (
    DESCRIPTION,
    FILES,
    check_place,
    read_folder,
    weights_from_bytes,
    weights_to_bytes,
    write_folder,
)
from rl_lightning.policies.onnx import onnx_bytes, onnx_policy
from rl_lightning.policies.policy import Policy, check_that_it_acts
from rl_lightning.types import State

Format = Literal["safetensors", "onnx"]
HUB = "hf://"  # before USER/REPOSITORY


def load_policy(path: str | Path, seed: int | None = None) -> Policy:
    """The policy of an export, a checkpoint or a run, to act anywhere: nothing of the training is needed.

    Args:
        path: a folder that `rl-lightning export` made; a checkpoint, as a file or URL; or a run's folder, of which the
            best checkpoint is taken, or else the last. ``hf://USER/REPOSITORY`` is fetched by `huggingface_hub`.
        seed: of samples, with ``deterministic=False``; None draws one.

    Returns:
        A function of observations; see `Policy`.

    Raises:
        UsageError: what is missing, damaged, not ours, or a policy whose network data cannot describe.
    """
    place, name = policy_file(path), str(path)
    if not place.is_dir():
        return policy_from(name, *read_checkpoint(place, name), seed)
    description, content = read_folder(place)
    check_description(description, name)
    if description["weights"]["file"] == FILES["onnx"]:
        return check_that_it_acts(onnx_policy(content, description, *spaces_of(description), name), name)
    check_described(description, name)
    return policy_from(name, description, weights_from_bytes(content, name), len(content), seed)


def policy_file(path: str | Path) -> Path:
    """The export's folder or the checkpoint's file that a path leads to.

    Raises:
        UsageError: a folder that holds neither.
    """
    place = _from_hub(str(path)) if str(path).startswith(HUB) else local_file(path)
    if not place.is_dir() or (place / DESCRIPTION).exists():
        return place
    checkpoints = [place / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    found = next((file for file in checkpoints if file.exists()), None)
    advice = "it has neither policy.json nor checkpoints/best.ckpt; give an export, a checkpoint or a run's folder"
    require(found is not None, "path", str(path), advice)
    assert found is not None
    return found


def _from_hub(path: str) -> Path:
    """A repository of the Hugging Face hub, as its client keeps it here."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UsageError(f"path={path!r} needs a package that is not installed: pip install huggingface_hub") from error
    return Path(snapshot_download(path.removeprefix(HUB), allow_patterns=[DESCRIPTION, *FILES.values()]))


def read_checkpoint(file: Path, name: str) -> tuple[State, Weights, int]:
    """What a checkpoint says of its policy, the policy's weights, and the file's size in bytes.

    Args:
        file: of the checkpoint.
        name: for messages.

    Raises:
        UsageError: what is no checkpoint of ours, or of a policy that data cannot describe.
    """
    checkpoint = load_checkpoint(file, {})
    description, state = checkpoint[KEY].get("policy"), checkpoint["state_dict"]
    check_description(description, name)
    check_described(description, name)
    try:
        weights = {own: state[theirs] for own, theirs in description.pop("weights").items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"checkpoint {name!r} lacks weights of its policy: it is damaged; give another") from error
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
        policy = load_policy(source)
        advice = "it is of ONNX already, which holds no network to write again; give the checkpoint that it came from"
        require(policy.network is not None, "source", str(source), advice)
        description, network = policy.description, policy.network
    else:
        description, network = source.policy_description(), deepcopy(source.policy_network()).cpu().eval()
        description.pop("weights", None)
        if format != "onnx":
            check_described(description, type(source).__name__)
    assert network is not None
    spaces = spaces_of(description)
    content = weights_to_bytes(network.state_dict()) if format == "safetensors" else onnx_bytes(network, *spaces)
    write_folder(folder, description, content, format, overwrite)
    return folder
