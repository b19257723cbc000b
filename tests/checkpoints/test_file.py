"""A checkpoint's file: whole or not there at all, and no changed bit of it is read."""

import errno
import os
import random
import resource
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from rl_lightning import UsageError
from rl_lightning.checkpoints.file import SEAL, fault_of, intact_beside, read, write


def state(number: int = 0, size: int = 500) -> dict[str, object]:
    return {"weights": torch.arange(size) + number, "number": number}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "last.ckpt"
    write(state(), path)
    return path.read_bytes()


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file grows beyond that many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_was_written_is_read_and_torch_and_zip_programs_read_it_too(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "last.ckpt"
    write(state(7), path)
    for loaded in (read(path), torch.load(path, weights_only=True), torch.load(path, weights_only=True, mmap=True)):
        assert torch.equal(loaded["weights"], torch.arange(500) + 7)
        assert loaded["number"] == 7
    assert zipfile.ZipFile(path).testzip() is None
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_no_flipped_bit_is_read(saved: bytes, tmp_path: Path) -> None:
    path, draw = tmp_path / "flipped.ckpt", random.Random(0)
    ends = range(8 * len(saved) - 8 * 60, 8 * len(saved))  # the archive's end and the seal, every bit of them
    for bit in [*(draw.randrange(8 * len(saved)) for _ in range(300)), *ends, *range(64)]:
        flipped = bytearray(saved)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert fault_of(path) is not None, bit
    path.write_bytes(saved)
    assert fault_of(path) is None


def test_no_file_that_was_cut_off_is_read_and_none_with_something_added(saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.ckpt"
    lengths = {*range(0, len(saved), 97), *range(len(saved) - 120, len(saved)), 1, 21, 22, 23, SEAL.size}
    for length in lengths:
        path.write_bytes(saved[:length])
        assert fault_of(path) is not None, length
    for added in (b"\0", b"\0" * 22, b"PK\x05\x06" + b"\0" * 18, saved):
        path.write_bytes(saved + added)
        assert fault_of(path) is not None, added[:30]
    path.write_bytes(saved[:1000] + saved[1001:])
    assert fault_of(path) is not None


def test_a_damaged_file_is_named_with_the_newest_intact_one_beside_it(saved: bytes, tmp_path: Path) -> None:
    for age, (name, content) in enumerate(
        {"newest.ckpt": saved[:-1], "best.ckpt": saved, "oldest.ckpt": saved, "other.txt": saved}.items()
    ):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    for content, fault in (
        (b"", "is empty"),
        (saved[:-5], "is no whole checkpoint: it was cut off"),
        (saved[:200] + b"!" + saved[201:], "its checksum is not that of what was saved"),
        (saved[:200] + saved[300:], f"it has {len(saved) - 100} bytes, {len(saved)} were saved"),
    ):
        (tmp_path / "last.ckpt").write_bytes(content)
        with pytest.raises(UsageError) as refusal:
            read(tmp_path / "last.ckpt")
        assert fault in str(refusal.value)
        assert str(refusal.value).endswith(f"the newest intact one beside it is '{tmp_path / 'best.ckpt'}'")
    assert [path.name for path in intact_beside(tmp_path / "last.ckpt")] == ["best.ckpt", "oldest.ckpt"]


def test_a_file_of_torch_save_is_read_unless_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "old.ckpt"
    torch.save(state(3), path)
    assert read(path)["number"] == 3
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(3, 9).numpy().tobytes())] ^= 1  # in a tensor, where torch would not look
    path.write_bytes(content)
    with pytest.raises(UsageError, match="its parts are not what was saved"):
        read(path)


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    torch.save({"object": Path("/")}, tmp_path / "object.ckpt")
    with pytest.raises(UsageError, match="more than tensors and primitives"):
        read(tmp_path / "object.ckpt")
    with pytest.raises(UsageError, match="does not exist"):
        read(tmp_path / "nothing.ckpt")
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("strange", "place"),
    [
        (
            {"callbacks": {"Best": {"score": np.float64(1.5)}}},
            r"\['callbacks'\]\['Best'\]\['score'\] is of numpy.float64",
        ),
        ({"hyper_parameters": {"path": [1, Path("/")]}}, r"\['hyper_parameters'\]\['path'\]\[1\] is of pathlib"),
    ],
)
def test_what_nobody_could_read_is_not_saved_over_what_they_can(
    strange: dict[str, object], place: str, tmp_path: Path
) -> None:
    path = tmp_path / "last.ckpt"
    write(state(1), path)
    with pytest.raises(UsageError, match=rf"last.ckpt' cannot be saved: its state{place}") as refusal:
        write(strange, path)
    assert "\n" not in str(refusal.value)
    assert read(path)["number"] == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize("room", [0, 1_000, 100_000, 399_000, 401_000])
def test_a_full_disk_leaves_the_previous_checkpoint_and_nothing_else(room: int, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write(state(1), path)

    with (
        room_for(room),
        pytest.raises(UsageError, match=r"File too large.*what was saved before is still there") as refusal,
    ):
        write(state(2, size=50_000), path)
    assert "\n" not in str(refusal.value)
    assert read(path)["number"] == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"last.ckpt' cannot be saved \(No space left on device\): make room there"):
        write(state(), tmp_path / "last.ckpt")
    monkeypatch.undo()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"File exists\): give a folder that can be written to"):
        write(state(), tmp_path / "file" / "last.ckpt")
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_must_not_be_written_to_is_named() -> None:
    own, nobody = os.geteuid(), 65534  # root may write everywhere, so it is somebody else for the moment
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are closed to others
        folder = Path(name)
        write(state(1), folder / "last.ckpt")
        (folder / "last.ckpt").chmod(0o444)
        folder.chmod(0o555)
        os.seteuid(nobody if own == 0 else own)
        try:
            with pytest.raises(UsageError, match="Permission denied") as refusal:
                write(state(2), folder / "last.ckpt")
        finally:
            os.seteuid(own)
            folder.chmod(0o755)
        assert "\n" not in str(refusal.value)
        assert read(folder / "last.ckpt")["number"] == 1
        assert os.listdir(folder) == ["last.ckpt"]


def test_a_writer_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    program = [sys.executable, str(Path(__file__).with_name("killed_writers.py")), str(tmp_path / "last.ckpt")]
    result = subprocess.run(program, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    left = [tuple(map(int, line.split())) for line in result.stdout.splitlines()]
    assert len(left) == 25
    assert left[-1][0] >= 25  # each has saved
    assert any(files > 1 for _, files in left)  # and been killed while they did
    write(state(0), tmp_path / "best.ckpt")
    assert sorted(os.listdir(tmp_path)) == ["best.ckpt", "last.ckpt"]  # what they had begun is gone


def test_a_file_that_somebody_is_writing_is_left_alone(tmp_path: Path) -> None:
    class Slow:  # saves another checkpoint in the same folder in the middle of its own being saved
        def __reduce__(self) -> tuple[object, ...]:
            write(state(1), tmp_path / "other.ckpt")
            assert len(os.listdir(tmp_path)) == 2
            return (OrderedDict, ())

    write({"slow": Slow()}, tmp_path / "last.ckpt")
    assert sorted(os.listdir(tmp_path)) == ["last.ckpt", "other.ckpt"]
