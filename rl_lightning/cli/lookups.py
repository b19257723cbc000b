"""What could have been meant: settings and classes that there are, and Python's types in words."""

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable
from typing import Any

from jsonargparse import ArgumentParser

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


def settings_of(class_path: str) -> list[str]:
    """What can be set of a class or function, as jsonargparse finds it: also what is passed on to a base class."""
    parser, target = ArgumentParser(), load(class_path)
    if inspect.isclass(target):
        parser.add_class_arguments(target, fail_untyped=False)
    elif callable(target):
        parser.add_function_arguments(target, fail_untyped=False)
    return [name for name in vars(parser.get_defaults()) if name not in NOT_SETTINGS]


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
