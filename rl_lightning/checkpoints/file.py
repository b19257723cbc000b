"""A checkpoint as a file: whole or not there at all, and never read where a bit of it has changed.

It is the zip archive of `torch.save`, whose comment, at the very end, holds the length and the CRC-32 of all before it.
So `torch.load` and every zip program read it too.
"""

import errno
import fcntl
import os
import secrets
import shutil
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from rl_lightning.errors import UsageError, one_line
from rl_lightning.types import State

END = struct.Struct("<4s8x8xH")  # a zip archive's last record: its mark, and the length of the comment that follows
END_MARK = b"PK\x05\x06"
SEAL = struct.Struct("<8sQI")  # our comment: mark, bytes before it, their CRC-32
SEAL_MARK = b"rl_ckpt1"
PARTIAL = ".partial"  # ends the name of a file that is being written
CHUNK = 1 << 20  # bytes, written and summed while they are in the cache
START_WRITING = hasattr(os, "posix_fadvise")  # Linux then begins to write at once what it is told to forget
PLAIN = (bool, int, float, complex, str, bytes, type(None))
FIXES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EFBIG: "raise the limit on the size of files",
}


def write(state: State, path: str | Path) -> None:
    """Save tensors and primitives in a file that replaces the one of this name at once, when it is safe on the disk.

    Args:
        state: to be saved.
        path: of the file; its folder is made where it is missing.

    Raises:
        UsageError: what the disk or the folder refuses, and more than data; the file that was there is as it was.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path) as file:
            sealed = _Sealed(file)
            torch.save(state, sealed)  # type: ignore[arg-type]
            sealed.close()
            _check_data(state, path, file.name)
    except OSError as error:
        raise _refusal(path, error) from error


def _check_data(state: State, path: Path, written: str) -> None:
    """Refuse what `read` would refuse, while the file that was there before is still there."""
    if strange := get_unsafe_globals_in_checkpoint(written):
        place, kind = next(_places_of_objects(state, "its state"), ("it", strange[0]))
        raise UsageError(
            f"checkpoint {str(path)!r} cannot be saved: {place} is of {kind}, and a checkpoint holds tensors, numbers, "
            "text, lists and dicts of them, or nobody could go on from it; leave it out, or make it one of these"
        )


def _places_of_objects(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Where something lies that is none of what checkpoints mostly hold, and its kind."""
    if type(value) in (dict, OrderedDict):
        for key, each in value.items():
            yield from _places_of_objects(each, f"{place}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, each in enumerate(value):
            yield from _places_of_objects(each, f"{place}[{index}]")
    elif not isinstance(value, Tensor) and type(value) not in PLAIN:
        yield place, f"{type(value).__module__}.{type(value).__qualname__}"


def link(source: Path, target: Path) -> None:
    """Let `target` be the same file as `source`, at once, or where the file system has no links a copy of it.

    Raises:
        UsageError: what the disk or the folder refuses; the file that was there is as it was.
    """
    temporary = _beside(target)
    try:
        try:
            os.link(source, temporary)
            os.replace(temporary, target)
        except OSError:
            with source.open("rb") as whole, _replacing(target) as file:
                shutil.copyfileobj(whole, file, CHUNK)
    except OSError as error:
        raise _refusal(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)  # os.replace leaves it where both are one file already


def read(path: str | Path, name: str | None = None) -> State:
    """Read a file that `write` or `torch.save` made, after checking every bit of it.

    Args:
        path: of the file.
        name: what messages call it, a URL that it was fetched from for example; None is its path.

    Returns:
        What was saved, on the CPU. Tensors come from the disk as they are used, so memory holds nothing twice.

    Raises:
        UsageError: a file that is missing, damaged, or holds more than tensors and primitives. The message names the
            newest intact checkpoint in its folder.
    """
    path, name = Path(path), name or str(path)
    if fault := fault_of(path):
        others = (f"; the newest intact one beside it is {str(other)!r}" for other in intact_beside(path))
        raise UsageError(f"checkpoint {name!r} {fault}{next(others, '; give an intact file')}")
    try:
        _check_inflation(path)
        state: State = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # of bytes that somebody made up; there are many kinds
        raise UsageError(
            f"checkpoint {name!r} cannot be read: it holds more than tensors and primitives, or something else "
            "than a checkpoint; give a file that rl_lightning saved"
        ) from error
    return state


def _check_inflation(path: Path) -> None:
    """Refuse an archive whose parts take more memory than their file has bytes; `torch.save` compresses nothing."""
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
    stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
    if not stored or sum(part.file_size for part in parts) > path.stat().st_size:
        raise ValueError("compressed")


def fault_of(path: Path) -> str | None:
    """What is wrong with a checkpoint's file, as the end of a sentence that names it; None where it is intact.

    A file of `torch.save` alone has no seal, and is checked by the archive's own sums.
    """
    try:
        with path.open("rb") as file:
            return _fault_of(file, os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        return "does not exist: give a file, like those under a run's checkpoints/"
    except OSError as error:
        return f"cannot be read ({one_line(error.strerror or error)})"


def intact_beside(path: Path) -> Iterator[Path]:
    """Other checkpoints in the same folder that are intact, the newest first."""
    with suppress(OSError):
        others = [other for other in path.parent.glob("*.ckpt") if other != path]
        newest_first = sorted(others, key=lambda other: other.stat().st_mtime, reverse=True)
        yield from (other for other in newest_first if fault_of(other) is None)


def _refusal(path: Path, error: OSError) -> UsageError:
    fix = FIXES.get(error.errno or 0, "give a folder that can be written to")
    return UsageError(
        f"checkpoint {str(path)!r} cannot be saved ({one_line(error.strerror or error)}): {fix}; "
        "what was saved before is still there"
    )


def _beside(path: Path) -> Path:
    """A name for a file that is to take its place."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")


def _fault_of(file: BinaryIO, size: int) -> str | None:
    if size == 0:
        return "is empty"
    tail_size = min(size, END.size + SEAL.size)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    if tail[-END.size :][:4] == END_MARK and tail[-2:] == b"\0\0":  # saved without a seal
        file.seek(0)
        with suppress(Exception):  # of damaged bytes; there are many kinds
            archive = zipfile.ZipFile(file)
            stored = all(part.compress_type == zipfile.ZIP_STORED for part in archive.infolist())
            if archive.namelist() and (not stored or archive.testzip() is None):  # `read` refuses the rest
                return None
        return "is damaged: its parts are not what was saved"
    mark, length, checksum = SEAL.unpack(tail[-SEAL.size :].rjust(SEAL.size))
    if mark != SEAL_MARK:
        return "is no whole checkpoint: it was cut off, or something was added to it"
    if length != size - SEAL.size:
        return f"is damaged: it has {size} bytes, {length + SEAL.size} were saved"
    file.seek(0)
    found, chunk = 0, memoryview(bytearray(CHUNK))
    while length:
        got = file.readinto(chunk[: min(CHUNK, length)])  # type: ignore[attr-defined]
        if not got:
            return "is damaged: it ends too early"
        found, length = zlib.crc32(chunk[:got], found), length - got
    return None if found == checksum else "is damaged: its checksum is not that of what was saved"


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file in the folder of `path` that takes its place at the end, and is gone where an error ends it."""
    _remove_abandoned(path.parent)
    temporary = _beside(path)
    try:
        with temporary.open("xb", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # as long as this process lives, nobody holds the file for abandoned
            yield file
            os.fsync(file.fileno())
            _take_its_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # not every file system can; the file is whole either way
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _take_its_place(temporary: Path, path: Path) -> None:
    """`os.replace`, but a thread frees the blocks of the file that was there, which takes a quarter of a write."""
    replaced = None
    with suppress(OSError):  # there is none, or it may not be read
        replaced = os.open(path, os.O_RDONLY)
    try:
        os.replace(temporary, path)
    finally:
        if replaced is not None:
            Thread(target=os.close, args=(replaced,)).start()


def _remove_abandoned(folder: Path) -> None:
    """Remove what a killed process was writing."""
    for partial in folder.glob(f".*{PARTIAL}"):
        with suppress(OSError), partial.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()


class _Sealed:
    """A file for `torch.save` that counts and sums what is written to it, and seals it in the end.

    Errors wait for `close`: torch's writer is C++, and would make something else of them.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._held = file, b""  # held back: what may be the archive's last record
        self._length = self._checksum = 0
        self._error: BaseException | None = None

    def write(self, data: Any) -> int:
        """Take any bytes."""
        view = memoryview(data).cast("B")
        kept = bytes(view[-END.size :])
        if len(view) < END.size:
            joined = self._held + kept
            self._put(memoryview(joined[: -END.size]))
            self._held = joined[-END.size :]
        else:
            self._put(memoryview(self._held))
            self._put(view[: -END.size])
            self._held = kept
        return len(view)

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Write the end of the archive and the seal.

        Raises:
            OSError: what writing has met with.
        """
        mark, _ = END.unpack(self._held)
        assert self._error is not None or mark == END_MARK, self._held
        self._put(memoryview(self._held[:-2] + struct.pack("<H", SEAL.size)))
        self._put(memoryview(SEAL.pack(SEAL_MARK, self._length, self._checksum)))
        if self._error is not None:
            raise self._error

    def _put(self, view: memoryview) -> None:
        try:
            for start in range(0, 0 if self._error else len(view), CHUNK):
                chunk = view[start : start + CHUNK]
                self._checksum = zlib.crc32(chunk, self._checksum)
                self._length += len(chunk)
                while chunk:
                    chunk = chunk[self._file.write(chunk) :]
                if START_WRITING and self._length > CHUNK:  # the disk works while the next chunk is summed
                    os.posix_fadvise(self._file.fileno(), self._length - CHUNK, CHUNK, os.POSIX_FADV_DONTNEED)
        except BaseException as error:  # that of a signal's handler too
            self._error = error
