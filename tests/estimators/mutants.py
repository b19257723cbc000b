"""The estimators with one line of their source changed."""

from pathlib import Path
from types import ModuleType

import rl_lightning.estimators

ROOM = Path(rl_lightning.estimators.__file__).parent


def mutant(file: str, old: str, new: str) -> ModuleType:
    """A module of the room in which `old`, which must stand there once, has become `new`."""
    source = (ROOM / file).read_text()
    assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {file}"
    module = ModuleType(f"mutant_of_{Path(file).stem}")
    exec(compile(source.replace(old, new), f"mutant of {file}", "exec"), module.__dict__)
    return module
