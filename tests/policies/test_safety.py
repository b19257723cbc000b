"""Files that want to run code, take all memory or leave their folder: each is refused in one line, and nothing happens.

A hostile file is given in every way that a checkpoint or an export can be given.
"""

import io
import json
import os
import pickle
import resource
import shutil
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_load import line_of
from toys import make_trainer
from trained import TINY, trained
from website import Sentinel, Website

from rl_lightning import SAC, ReplayDataModule, UsageError, export_policy, load_policy
from rl_lightning.cli.main import main

PENDULUM = str(Path(__file__).parents[2] / "configs/sac/pendulum.yaml")
DEFLATED = zipfile.ZIP_DEFLATED
SMALL = [
    *("--model.network.hidden_sizes=[8]", "--model.compile=false", "--data.total_env_steps=50"),
    *("--data.learning_starts=20", "--data.batch_size=4", "--trainer.accelerator=cpu", "--trainer.logger=false"),
    *("--data.eval_episodes=1", "--data.test_episodes=1"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(SAC, "Pendulum-v1").save(tmp_path_factory.mktemp("good") / "good.ckpt")


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    return export_policy(checkpoint, checkpoint.with_name("exported"))


def made(**settings: Any) -> tuple[SAC, ReplayDataModule]:
    defaults = {"total_env_steps": 50, "learning_starts": 20, "batch_size": 4, "test_episodes": 1}
    data = ReplayDataModule("Pendulum-v1", **defaults | settings)
    return SAC(data.observation_space, data.action_space, network=TINY, compile=False), data


# Hostile checkpoints


class Shell:
    """Runs a command where it is unpickled without care."""

    def __init__(self, made: Path) -> None:
        self.command = f"touch {made}"

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def archive(good: Path, path: Path, change: Callable[[bytes], bytes], kind: int = zipfile.ZIP_STORED) -> Path:
    """The archive of a good checkpoint with another pickle in it, and without a seal."""
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w", kind) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return path


class Huge:
    """A tensor of a shape that no memory holds, on a storage of four numbers."""

    def __init__(self, shape: tuple[int, ...], stride: tuple[int, ...], claimed: int) -> None:
        self.shape, self.stride, self.claimed = shape, stride, claimed

    def __reduce__(self) -> Any:
        storage = torch.UntypedStorage(1)
        return torch._utils._rebuild_tensor_v2, (storage, 0, self.shape, self.stride, False, OrderedDict())


def pickled(payload: Any, claimed: int) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            return (
                ("storage", torch.FloatStorage, "0", "cpu", claimed)
                if isinstance(thing, torch.UntypedStorage)
                else None
            )

    file = io.BytesIO()
    Pickler(file, protocol=2).dump(payload)
    return file.getvalue()


def hostile_checkpoints(good: Path, folder: Path, sentinel: Path) -> list[Path]:
    state = torch.load(good, weights_only=True)
    files = [folder / f"{name}.ckpt" for name in ("code", "shell", "pickle", "legacy")]
    torch.save({**state, "hyper_parameters": Sentinel(sentinel)}, files[0])
    torch.save({**state, "state_dict": {"policy.body.0.weight": Shell(sentinel)}}, files[1])
    files[2].write_bytes(pickle.dumps({"state_dict": {}, "rl_lightning": Shell(sentinel)}))
    torch.save({**state, "callbacks": Shell(sentinel)}, files[3], _use_new_zipfile_serialization=False)
    for name, huge in {
        "long": Huge((10**12,), (1,), 10**12),
        "beyond": Huge((10**12,), (1,), 4),
    }.items():
        weights = {**state["state_dict"], "policy.body.0.weight": huge}
        payload = pickled({"state_dict": weights, "rl_lightning": state["rl_lightning"]}, huge.claimed)
        files.append(archive(good, folder / f"{name}.ckpt", lambda _, payload=payload: payload))
    files.append(archive(good, folder / "zipped.ckpt", lambda content: content, DEFLATED))
    inflated = archive(good, folder / "bomb.ckpt", lambda content: content[:2] + b"N0" * 2**26 + content[2:], DEFLATED)
    return [*files, inflated]


@pytest.fixture(scope="module")
def hostile(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    """The files, and what none of them may make."""
    folder = tmp_path_factory.mktemp("hostile")
    return hostile_checkpoints(checkpoint, folder, folder / "sentinel"), folder / "sentinel"


def peak() -> int:
    """Bytes of memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def trainers(stage: str) -> Callable[[str], object]:
    def give(path: str) -> object:
        model, data = made()
        return getattr(make_trainer(), stage)(model, datamodule=data, ckpt_path=path)

    return give


def load_from_checkpoint(path: str) -> object:
    model, _ = made()
    spaces = {"observation_space": model.observation_space, "action_space": model.action_space}
    return SAC.load_from_checkpoint(path, network=TINY, compile=False, **spaces)


WAYS: dict[str, Callable[[str], object]] = {
    "load_policy": load_policy,
    "export_policy": lambda path: export_policy(path, "exported"),
    "load_weights": lambda path: made()[0].load_weights(path),
    "load_from_checkpoint": load_from_checkpoint,
    "trainer.fit": trainers("fit"),
    "trainer.test": trainers("test"),
    "buffer_from": lambda path: made(buffer_from=path)[1].setup("fit"),
    "--init_from": lambda path: main(["fit", "-c", PENDULUM, *SMALL, f"--init_from={path}"]),
    "--ckpt_path": lambda path: main(["test", "-c", PENDULUM, *SMALL, f"--ckpt_path={path}"]),
    "export": lambda path: main(["export", path, "--to=exported"]),
}


def refusal(give: Callable[[str], object], path: str) -> str:
    with pytest.raises((UsageError, SystemExit)) as refused:
        give(path)
    assert not isinstance(refused.value, SystemExit) or isinstance(refused.value.code, str)
    return line_of(refused)


@pytest.mark.parametrize("way", WAYS)
def test_a_hostile_file_is_refused_however_it_is_given(
    way: str,
    hostile: tuple[list[Path], Path],
    checkpoint: Path,
    website: Website,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files, sentinel = hostile
    monkeypatch.chdir(tmp_path)
    before = peak()
    for file in files[:: 8 if way in ("--init_from", "--ckpt_path") else 1]:  # the program takes long to start
        line = refusal(WAYS[way], str(file))
        assert f"{file.name}' cannot be read" in line or f"{file.name}' is " in line
        shutil.copy(file, website.folder)
        assert "ckpt' " in refusal(WAYS[way], f"{website.url}/{file.name}")
    assert peak() - before < 100e6
    assert not sentinel.exists()
    assert not any(path.name in ("exported", "runs") for path in tmp_path.iterdir()), "nothing was made"
    WAYS[way](str(checkpoint))


def test_the_hostile_files_would_do_harm_where_they_are_read_without_care(hostile: tuple[list[Path], Path]) -> None:
    (*code, _, _, _, _), sentinel = hostile
    for file in code:
        torch.load(file, weights_only=False) if file.stem != "pickle" else pickle.loads(file.read_bytes())
        assert sentinel.exists(), file
        sentinel.unlink()


# Hostile exports


def forged(exported: Path, folder: Path, change: Callable[[Any], object] | None, content: bytes | None = None) -> Path:
    """A copy of an export with another description or other weights, and the sum that belongs to them."""
    shutil.copytree(exported, folder)
    description = json.loads((folder / "policy.json").read_text())
    if content is not None:
        (folder / "policy.safetensors").write_bytes(content)
        description["weights"]["sha256"] = sha256(content).hexdigest()
    if change is not None:
        change(description)
    (folder / "policy.json").write_text(json.dumps(description))
    return folder


def layers(description: Any) -> Any:
    return description["network"]["bodies"][0]["layers"]


def nested(description: Any) -> None:
    body = description["network"]["bodies"][0]
    for _ in range(300):
        body = {"layer": "sequential", "layers": [body]}
    description["network"]["bodies"] = [body]


DESCRIPTIONS: dict[str, Callable[[Any], object]] = {
    "a layer of terabytes": lambda d: layers(d)[0].update(out_features=10**12),
    "a layer that overflows": lambda d: layers(d)[0].update(out_features=10**30),
    "a layer that fits nothing": lambda d: layers(d)[0].update(in_features=4),
    "a layer that is code": lambda d: layers(d)[1].update(layer="os.system"),
    "a policy that is code": lambda d: d["network"].update(kind="__import__"),
    "too few bodies": lambda d: d["network"].update(bodies=[]),
    "bodies in bodies": nested,
    "an image of terabytes": lambda d: d["observation_space"].update(shape=[10**6, 10**6, 3]),
    "a shape below zero": lambda d: d["observation_space"].update(shape=[-3]),
    "a space of objects": lambda d: d["observation_space"].update(dtype="object"),
    "bounds of text": lambda d: d["observation_space"].update(low="x"),
    "actions without end": lambda d: d.update(action_space={"kind": "discrete", "n": 10**15, "start": 0}),
    "other actions": lambda d: d.update(action_space={"kind": "discrete", "n": 2, "start": 0}),
    "a space that is code": lambda d: d.update(action_space={"kind": "eval", "n": 2}),
    "weights elsewhere": lambda d: d["weights"].update(file="../../../etc/passwd"),
    "no weights": lambda d: d.update(weights=None),
    "a newer schema": lambda d: d.update(schema=2),
    "no training": lambda d: d.update(training=None),
    "no network": lambda d: d.update(network=[]),
    "an algorithm of lists": lambda d: d.update(algorithm=[[]]),
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_forged_description_is_refused_in_one_line(name: str, exported: Path, tmp_path: Path) -> None:
    folder = forged(exported, tmp_path / "forged", DESCRIPTIONS[name])
    before = peak()
    for use in (load_policy, lambda path: export_policy(path, tmp_path / "again"), made()[0].load_weights):
        refusal(use, str(folder))
    assert peak() - before < 100e6
    assert not (tmp_path / "again").exists()


def safetensors(header: dict[str, Any], content: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


HUGE_TENSOR = {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        struct.pack("<Q", 2**60),
        struct.pack("<Q", 2**60) + b"{}",
        safetensors({"policy.body.0.weight": HUGE_TENSOR}),
        safetensors({"policy.body.0.weight": {**HUGE_TENSOR, "data_offsets": [0, 4]}}, b"0000"),
        safetensors({"../../evil": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"0000"),
        safetensors({}),
        pickle.dumps({}),
    ],
    ids=["empty", "header", "header and some", "terabytes", "terabytes in four bytes", "path", "nothing", "pickle"],
)
def test_forged_weights_are_refused_in_one_line(content: bytes, exported: Path, tmp_path: Path) -> None:
    folder, before = forged(exported, tmp_path / "forged", None, content), peak()
    for use in (load_policy, made()[0].load_weights):
        refusal(use, str(folder))
    assert peak() - before < 100e6


def test_weights_that_are_not_finite_or_are_one_number_for_millions_are_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    state, path = torch.load(checkpoint, weights_only=True), tmp_path / "forged.ckpt"
    for number, words in ((torch.nan, "give finite real numbers"), (torch.inf, "give finite real numbers")):
        torch.save(
            {**state, "state_dict": {**state["state_dict"], "policy.body.0.bias": torch.full((8,), number)}}, path
        )
        assert words in refusal(load_policy, str(path))
    width = 10**6
    [first, _, last] = layers(state["rl_lightning"]["policy"])
    first["out_features"] = last["in_features"] = width
    wide = {"0.weight": (width, 3), "0.bias": (width,), "2.weight": (2, width), "2.bias": (2,)}
    ones = {f"policy.body.{name}": torch.zeros(1).expand(shape) for name, shape in wide.items()}
    torch.save({**state, "state_dict": {**state["state_dict"], **ones}}, path)
    assert "bytes' is not allowed: the file has" in refusal(load_policy, str(path))


def test_a_damaged_export_is_named(exported: Path, tmp_path: Path) -> None:
    for name, content, words in (
        ("policy.safetensors", b"other", "policy.safetensors is another file or damaged"),
        ("policy.json", b"[" * 10**6, "policy.json is not one of rl_lightning's"),
        ("policy.json", b"\xff\xfe", "policy.json is not one of rl_lightning's"),
        ("policy.json", b"{}", "policy.json is not one of rl_lightning's"),
    ):
        shutil.rmtree(tmp_path / "forged", ignore_errors=True)
        shutil.copytree(exported, tmp_path / "forged")
        (tmp_path / "forged" / name).write_bytes(content)
        assert words in refusal(load_policy, str(tmp_path / "forged"))
    with (tmp_path / "forged/policy.json").open("wb") as file:
        file.truncate(10**10)  # a file of holes: ten gigabytes that take no room
    assert "policy.json='10,000,000,000 bytes' is not allowed" in refusal(load_policy, str(tmp_path / "forged"))


def test_an_archive_whose_parts_lie_outside_leaves_nothing_there(checkpoint: Path, tmp_path: Path) -> None:
    path = archive(checkpoint, tmp_path / "inner" / "outside.ckpt", lambda content: content)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as file:
        file.writestr("../evil", b"1")
        file.writestr("/evil", b"1")
    refusal(load_policy, str(path))
    assert not (tmp_path / "evil").exists()
    assert not Path("/evil").exists()


def test_what_a_stranger_calls_an_environment_stays_text_in_the_card(exported: Path, tmp_path: Path) -> None:
    name = "x\n---\nlicense: mine\n# Title ```\n[link](http://nowhere) <script>"
    folder = forged(exported, tmp_path / "forged", lambda d: d.update(env_id=name, algorithm=name))
    text = (export_policy(folder, tmp_path / "again") / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front).keys() == {"library_name", "pipeline_tag", "tags"}
    assert "<script>" not in body.replace(repr(name), "")
    assert "\n# Title" not in body
