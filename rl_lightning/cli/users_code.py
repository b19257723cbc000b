"""Errors that come from the user's own files: where, and what."""

import importlib
import sysconfig
import traceback
from pathlib import Path

from rl_lightning.cli.causes import find_cause
from rl_lightning.cli.lookups import classes_in
from rl_lightning.errors import one_line

LIBRARIES = (*sysconfig.get_paths().values(), str(Path(__file__).parents[1]))  # how their files' names begin


def told(error: BaseException) -> str:
    """An error with the file and line that it comes from: the user's own file, if one had part in it."""
    if isinstance(error, SyntaxError):
        place, text = f"{error.filename}, line {error.lineno}", error.msg
    else:
        frame = (_own_frames(error) or traceback.extract_tb(error.__traceback__))[-1]
        place, text = f"{frame.filename}, line {frame.lineno}", one_line(error)
    fix = "mend what is there, or the settings that it is given"
    return f"{type(error).__name__} in {place}: {text or 'without a message'}; {fix}"


def told_of_users_code(message: str, error: BaseException | None) -> str | None:
    """What to say where a class in a config could not be imported because of its own module; None where that is fine.

    Args:
        message: jsonargparse's.
        error: what the message came from. It is not always linked with what was raised in a module.
    """
    while error is not None:
        if _is_of_user(error):
            return told(error)
        error = error.__cause__ or error.__context__
    cause = find_cause(message)
    if classes_in(cause.types):  # only then the value was imported
        try:
            importlib.import_module(cause.value.rpartition(".")[0])
        except Exception as raised:
            return told(raised) if _is_of_user(raised) else None
    return None


def _is_of_user(error: BaseException) -> bool:
    return isinstance(error, SyntaxError) or bool(_own_frames(error))


def _own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Where it passed through files that are no library's; compiled modules give their files names of their own."""
    frames = traceback.extract_tb(error.__traceback__)
    return [each for each in frames if Path(each.filename).is_absolute() and not each.filename.startswith(LIBRARIES)]
