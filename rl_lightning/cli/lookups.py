"""What could have been meant: settings and classes that there are, and Python's types in words."""

import difflib
import importlib
import inspect
import re
from argparse import SUPPRESS
from collections.abc import Callable, Iterable, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from jsonargparse import ArgumentParser

from rl_lightning.errors import one_line

LINKED = {"observation_space", "action_space"}  # arguments that the environment gives
NOT_SETTINGS = LINKED | {"params", "optimizer", "in_features", "out_features"}  # arguments that the program gives


def nearest(key: str, known: Iterable[str]) -> str | None:
    """`key` with its first part that no `known` key has replaced by the likest; None where nothing is alike.

    >>> nearest("modle.gamma", ["model", "data"])
    'model.gamma'
    """
    parts, known_parts = key.split("."), [other.split(".") for other in known]
    for depth, part in enumerate(parts):
        siblings = sorted({o[depth] for o in known_parts if o[:depth] == parts[:depth] and len(o) > depth})
        if part not in siblings:
            starting = [sibling for sibling in siblings if sibling.startswith(part)]  # an abbreviation, perhaps
            likest = difflib.get_close_matches(part, siblings, n=1) or (starting if len(starting) == 1 else [])
            return ".".join([*parts[:depth], likest[0], *parts[depth + 1 :]]) if likest else None
    return None


class Setting(NamedTuple):
    """An argument of a class or function that can be set.

    Attributes:
        name: of the argument.
        types: its annotation.
        default: of an object a dict with its ``class_path``.
        meaning: from the docstring, on one line.
        required: whether there is no default.
    """

    name: str
    types: Any
    default: Any
    meaning: str
    required: bool

    @property
    def class_path(self) -> str | None:
        """Of the object that it is by default; None where it is none."""
        return self.default.get("class_path") if isinstance(self.default, dict) else None


def settings_of(class_path: str) -> list[Setting]:
    """What can be set of a class or function, as jsonargparse finds it: also what is passed on to a base class."""
    parser, target = ArgumentParser(), load(class_path)
    if inspect.isclass(target):
        parser.add_class_arguments(target, fail_untyped=False)
    elif callable(target):
        parser.add_function_arguments(target, fail_untyped=False)
    return [
        Setting(it.dest, getattr(it, "_typehint", Any), it.default, one_line(it.help or ""), it.required)
        for it in parser._actions
        if it.default != SUPPRESS and it.dest not in NOT_SETTINGS
    ]


def settings_inside(class_path: str, name: str) -> list[str]:
    """Where a setting of that `name` is one of the objects that a class is given by default.

    >>> settings_inside("rl_lightning.DQN", "lr")
    ['q_optimizer.lr']
    """
    owners = [(setting.name, setting.class_path) for setting in settings_of(class_path) if setting.class_path]
    return [f"{owner}.{name}" for owner, path in owners if name in (inner.name for inner in settings_of(path))]


def made_by(annotation: Any) -> list[type]:
    """The classes whose object a setting of that type is, or makes; what is in a list is left out."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Callable:
        return made_by(inner[-1])
    if origin in (Union, UnionType):
        return [cls for one in inner for cls in made_by(one)]
    return [annotation] if isinstance(annotation, type) and annotation.__module__ != "builtins" else []


def in_words(annotation: Any) -> str:
    """A type in words; of a function that makes an object, what it makes.

    >>> in_words(int | None)
    'an int or null'
    """
    if annotation is None or annotation is NoneType:
        return "null"
    if annotation is bool:
        return "true or false"
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(in_words(one) for one in inner)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin is Callable:
        return in_words(inner[-1])
    if isinstance(origin or annotation, type) and issubclass(origin or annotation, Sequence) and inner:
        return f"a list, each {in_words(inner[0])}"
    return with_article((origin or annotation).__name__) if isinstance(origin or annotation, type) else "anything"


def allowed(types: str) -> str:
    """Python's types in words.

    >>> allowed("<class 'int'>, <class 'NoneType'>")
    'an int or null'
    """
    literals = ", ".join(dict.fromkeys(re.findall(r"[^', ]+", ",".join(re.findall(r"Literal\[(.*?)\]", types)))))
    types = re.sub(r"(typing\.)?Literal\[.*?\](, )?", "", types)
    types = re.sub(r"<class '(.*?)'>", r"\1", types)
    types = re.sub(r"(\w+\.)+", "", types).replace("NoneType", "null").replace("bool", "true or false")
    words = [*([f"one of {literals}"] if literals else []), *re.split(r", (?![^\[]*\])", types)]
    text = " or ".join(word for word in words if word)
    return with_article(text) if re.match(r"int|float|str|list|dict|[A-Z]", text) else text


def with_article(word: str) -> str:
    """'a float', 'an Optimizer'."""
    return f"{'an' if word[0] in 'aeioAEIO' else 'a'} {word}"


def load(path: str) -> Any:
    """What is at an import path; None where nothing is."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):  # ValueError: no module in the path
        return None


def annotation(class_path: str, name: str) -> str:
    """The type of an argument of a class, as Python prints it; empty where it has none of that name."""
    target = load(class_path) if class_path else None
    parameters = inspect.signature(target).parameters if callable(target) else {}
    return str(parameters[name].annotation) if name in parameters else ""


def classes_in(types: str) -> list[type]:
    """The classes, not those of typing, that the text of a type mentions; of a callable, what it returns."""
    paths = re.findall(r"(?:\w+\.)+\w+", re.sub(r"Callable\[\[.*?\]", "", types))
    found = [load(path) for path in paths if not path.startswith(("typing.", "collections."))]
    return [cls for cls in dict.fromkeys(found) if isinstance(cls, type)]


def subclasses(base: type) -> set[type]:
    """`base` and all that derives from it, of what has been imported."""
    return {base}.union(*map(subclasses, base.__subclasses__()))
