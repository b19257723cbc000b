"""A policy's folder: `policy.json`, its weights, and a card. Written whole or not at all, read without trust."""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of

from rl_lightning.errors import UsageError, one_line, require
from rl_lightning.policies.card import card
from rl_lightning.policies.description import Weights, versions
from rl_lightning.types import State

DESCRIPTION, CARD = "policy.json", "README.md"
FILES = {"safetensors": "policy.safetensors", "onnx": "policy.onnx"}
FORMAT, SCHEMA = "rl_lightning policy", 1
LARGEST_JSON = 2**26  # bytes; with a bound for every pixel of an image it is large


def write_folder(folder: Path, description: State, content: bytes, format: str, overwrite: bool) -> None:
    """Write a policy's folder beside its place, then move it there.

    Args:
        folder: to be made.
        description: of the policy.
        content: of the file with its weights.
        format: `safetensors` or `onnx`.
        overwrite: an older export in its place.

    Raises:
        UsageError: a folder that is there already, or cannot be made.
    """
    file = FILES[format]
    digest = {"file": file, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    description = {"format": FORMAT, "schema": SCHEMA, **description, "versions": versions(), "weights": digest}
    text = json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False)
    check_place(folder, overwrite)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            beside.chmod(0o777 & ~_umask())
            for name, part in ((file, content), (DESCRIPTION, text.encode()), (CARD, card(description).encode())):
                with (beside / name).open("wb") as opened:
                    opened.write(part)
                    opened.flush()
                    os.fsync(opened.fileno())
            _move(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"to={str(folder)!r} cannot be written: {one_line(error)}; give another folder") from error


def check_place(folder: Path, overwrite: bool) -> None:
    """Refuse a place that is taken, unless by an export that is to be replaced.

    Raises:
        UsageError: saying what is there.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() and not folder.is_symlink() else set()
    is_export = DESCRIPTION in names and names <= {DESCRIPTION, CARD, *FILES.values()}
    require(is_export, "to", str(folder), "it exists and is no export alone; give a folder that does not exist")
    require(overwrite, "to", str(folder), "it exists already; give another folder, or --overwrite to replace it")


def _move(beside: Path, folder: Path) -> None:
    """Rename; an older folder goes aside first, and is deleted when the new one is in its place."""
    aside = beside.with_name(f"{beside.name}-old")
    if folder.exists():
        folder.rename(aside)
    beside.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)
    descriptor = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_folder(folder: Path) -> tuple[State, bytes]:
    """What `policy.json` says, and the file with the weights that belongs to it.

    Raises:
        UsageError: a file that is missing, damaged, of a newer schema, or not the one that it was exported with.
    """
    place = str(folder)
    try:
        size = (folder / DESCRIPTION).stat().st_size
        require(size <= LARGEST_JSON, DESCRIPTION, f"{size:,} bytes", f"{place!r} holds no export of rl_lightning")
        description = json.loads((folder / DESCRIPTION).read_text())
        assert isinstance(description, dict)
        assert description["format"] == FORMAT
        schema, file, digest = (description["schema"], description["weights"]["file"], description["weights"]["sha256"])
    except FileNotFoundError as error:
        raise UsageError(f"{place!r} has no {DESCRIPTION}: give a folder that `rl-lightning export` made") from error
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError, OSError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{place}/{DESCRIPTION} is not one of rl_lightning's: give an intact export") from error
    require(schema == SCHEMA, "schema", schema, f"{place!r} is of a newer rl_lightning: this one reads {SCHEMA}")
    require(file in FILES.values(), "weights.file", file, f"in {place!r} one of {', '.join(FILES.values())} is meant")
    try:
        content = (folder / file).read_bytes()
    except OSError as error:
        raise UsageError(f"{place}/{file} cannot be read: {one_line(error)}; export the policy anew") from error
    intact = hashlib.sha256(content).hexdigest() == digest
    require(intact, "sha256", digest, f"{place}/{file} is another file or damaged; export the policy anew")
    return description, content


def weights_to_bytes(weights: Weights) -> bytes:
    """Tensors by name as a safetensors file."""
    return bytes_of({name: tensor.contiguous() for name, tensor in weights.items()})


def weights_from_bytes(content: bytes, place: str) -> Weights:
    """Tensors by name from a safetensors file.

    Raises:
        UsageError: content of another kind.
    """
    try:
        return tensors_of(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise UsageError(f"{place}/{FILES['safetensors']} is no file of tensors: {one_line(error)}") from error
