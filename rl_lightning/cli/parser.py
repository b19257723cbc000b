"""The command line's parser: every mistake in flags and config files ends the program with one line and exit code 2."""

import operator
import os
import re
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import register_type
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser
from omegaconf.errors import OmegaConfBaseException

from rl_lightning.cli.causes import find_cause
from rl_lightning.cli.help.classes import class_help
from rl_lightning.cli.messages import explain
from rl_lightning.cli.shipped import config_path
from rl_lightning.cli.users_code import told, told_of_users_code
from rl_lightning.errors import Divergence, EnvironmentFault, UsageError, one_line

WRAPPERS = ("Does not validate against", "Problem with given class_path", "Parser key", "Type ")  # of other errors
OURS = (UsageError, EnvironmentFault, Divergence, MisconfigurationException)  # errors that say what to do


def _array(value: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(yaml.safe_load(value) if isinstance(value, str) else value)  # flags are text
    if array.dtype.kind not in "iuf":
        raise ValueError("give a number or a list of numbers")
    return array


def _number(value: Any) -> np.ndarray[Any, Any]:
    array = _array(value)
    if array.ndim > 0:
        raise ValueError("give a number")
    return array


# What Gymnasium's RescaleObservation, RescaleAction and ClipReward take is written as numbers and lists
register_type(np.floating, serializer=float, deserializer=lambda value: np.float64(_number(value)))
register_type(np.integer, serializer=int, deserializer=lambda value: np.int64(operator.index(_number(value).item())))
register_type(np.ndarray, serializer=lambda array: array.tolist(), deserializer=_array)


class OneLineErrorParser(LightningArgumentParser):
    """LightningCLI's parser, which tells a mistake in one line, and takes no null where a number belongs.

    The parsers of subcommands, and those that jsonargparse makes for the classes in a config, are of this class too.
    """

    config_file = ""  # the one being read

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allow_abbrev = False  # jsonargparse would not hand it on to the parsers of classes

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit with code 2.

        Args:
            message: jsonargparse's own.
            ex: what it came from.

        Raises:
            ArgumentError: in the parser of a class in a config, for the parser around it to add the place.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self  # set for unknown keys of config files
        subcommands = getattr(parser._subcommands_action, "choices", None)
        see = f"`{parser.prog.replace(' [options]', '')} --help=all` lists them, and those of the model are --model.KEY"
        hint = f"flags stand behind one of {', '.join(subcommands)}" if subcommands else see
        known = [option.lstrip("-") for option in parser._option_string_actions]
        line = told_of_users_code(message, ex) or explain(message, known, hint, getattr(parser, "args", ()))
        self.exit(2, f"error: {line}{f' (in {self.config_file})' if self.config_file else ''}\n")

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        """Parse flags. What jsonargparse lets through, of interpolation and unreadable files, becomes an error too."""
        self.config_file = ""
        try:
            config: Namespace = super().parse_args(args, *rest, **kwargs)
        except BrokenPipeError:  # what it prints, the help of a class for instance, is not read to its end
            raise
        except (OmegaConfBaseException, OSError, ValueError) as error:
            self.error(str(error), error)
        return config

    def parse_path(self, path: str | os.PathLike[str], *rest: Any, **kwargs: Any) -> Namespace:
        """Parse a config file; an error that comes of it will name the file."""
        self.config_file = str(path)
        config: Namespace = super().parse_path(path, *rest, **kwargs)
        for group in self.groups or ():  # jsonargparse would drop `trainer: 3` in silence
            if isinstance(config.get(group), (str, int, float, list)):
                self.error(f'Parser key "{group}": Unable to load config')
        self.config_file = ""
        return config

    def validate(self, namespace: Namespace, *rest: Any, **kwargs: Any) -> None:
        """Check values, also null: jsonargparse holds it for 'not given' and would let it pass as any type."""
        super().validate(namespace, *rest, **kwargs)
        for action in self._actions:
            if action.default is not None and action.dest in namespace and namespace[action.dest] is None:
                super().validate(Namespace({action.dest: None}), skip_unset=False, skip_required=True)  # type: ignore[no-untyped-call]

    def print_help(self, file: Any = None) -> None:
        """Print the help; of a class, as `--model.help=SAC` asks for it, of its settings alone."""
        if match := re.fullmatch(r"Help for --(\S+)\.help\b.*=(\S+)", self.description or ""):
            print(class_help(match[2], match[1]), file=file)
        else:
            super().print_help(file)

    def instantiate(self, namespace: Namespace, *rest: Any, **kwargs: Any) -> Namespace:
        """Make the objects; an error in making one is raised as it is, not as jsonargparse wraps it."""
        try:
            objects: Namespace = super().instantiate(namespace, *rest, **kwargs)
        except Exception as error:
            cause: BaseException = error
            while cause.__cause__ is not None and str(cause).startswith(WRAPPERS):
                cause = cause.__cause__
            if isinstance(cause, OURS):
                raise cause from cause.__cause__
            if str(cause).startswith("Expected a"):  # jsonargparse's, of one of several types; another tells more
                inner = find_cause(str(error))
                what = inner.class_path or inner.value
                raise UsageError(f"{what} cannot be made: {one_line(inner.text)}; mend it, or its settings") from error
            raise UsageError(told(cause)) from cause
        return objects


def config_files_first(args: list[str]) -> list[str]:
    """Move every ``--config FILE`` right behind the subcommand, so that flags win wherever they stand.

    Names of configs that come with the package become their paths.
    """
    files, rest = [], []
    arguments = iter(args)
    for argument in arguments:
        if argument in ("-c", "--config"):
            files += [argument, *([config_path(value)] if (value := next(arguments, None)) is not None else [])]
        elif match := re.fullmatch(r"(--config=|-c=?)(.*)", argument, re.S):
            files.append(match[1] + config_path(match[2]))
        else:
            rest.append(argument)
    return [*rest[:1], *files, *rest[1:]]
