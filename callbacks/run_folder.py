"""A run's folder: used by one process at a time, its files exchanged whole."""

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO
from weakref import WeakSet

from rl_lightning.errors import UsageError

LOCK = ".lock"  # stays behind and means nothing by itself: the kernel knows who holds it


class FolderLock:
    """The right to write into a folder, which ends with the process, however that ends.

    Args:
        folder: made if it is not there.

    Raises:
        UsageError: another process has it; its number is named. Or it cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] | None = (folder / LOCK).open("a+")
        except OSError as error:
            raise UsageError(
                f"run folder {str(folder)!r} cannot be written to: {error.strerror}; allow it, or give a copy"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise UsageError(
                f"run folder {str(folder)!r} is in use by process {holder}: wait until that has ended, or stop it"
            ) from error
        HELD.add(self)
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Let other processes write into the folder."""
        if self._file is not None:
            self._file.close()
            self._file = None


HELD: WeakSet[FolderLock] = WeakSet()


def _release_in_child() -> None:
    """Let go in a forked child, an environment's process for instance: it may outlive the one that has the folder."""
    for lock in [*HELD]:
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)


def check_free(folders: Iterable[Path]) -> None:
    """Refuse to begin beside runs that are under way, as a killed command may have left them.

    Args:
        folders: of the runs; those that are not there yet are passed over.

    Raises:
        UsageError: a process writes into one of them.
    """
    for folder in folders:
        if folder.is_dir():
            FolderLock(folder).release()


def write_whole(path: Path, text: str) -> None:
    """Write a file, or exchange it: whoever reads it, whenever this process dies, finds the old text or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name
    finally:
        os.close(folder)
