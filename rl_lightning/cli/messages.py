"""What jsonargparse refuses, said in one line: key, value, what is allowed, the fix."""

import difflib
import importlib
import inspect
import os
import re
from collections.abc import Callable, Iterable, Sequence

from rl_lightning.cli.causes import SPEC_KEYS, Cause, find_cause
from rl_lightning.cli.lookups import (
    LINKED,
    allowed,
    annotation,
    classes_in,
    nearest,
    settings_of,
    subclasses,
    with_article,
)
from rl_lightning.cli.shipped import nearest_names

EXAMPLES = {"model": "--model=SAC", "data": "--data=ReplayDataModule", "data.env_id": "--data.env_id=Pendulum-v1"}
UNKNOWN = re.compile(r"unrecognized arguments: (\S+)|(?:Option|.* does not accept option) '(.+?)'")
NO_CLASS = re.compile(
    r"module '(?P<module>.+)' has no attribute|No module named '(?P<missing>.+)'|Not a valid subclass of"
    r"|Import path .*to a subclass of|Expected (a dot import|an import path|'.*' to be a|an instantiatable)"
    r"|argument of type '.*' is not iterable"
)


def explain(message: str, known: Iterable[str] = (), hint: str = "", args: Sequence[str] = ()) -> str:
    """Say `message` of jsonargparse in one line.

    Args:
        message: what it says.
        known: the program's own keys.
        hint: where to look when no key is like the one given.
        args: the command line.
    """
    cause = find_cause(message)
    if not cause.text or NO_CLASS.match(cause.text):
        return _wrong_value(cause)
    if match := UNKNOWN.match(cause.text):
        return _unknown_key(match[1] or match[2], cause, known, hint)
    if match := re.match(r"argument (\S+): expected one argument", cause.text):
        return _without_value(match[1].split("/"), args)
    for pattern, say in SAYINGS.items():
        if match := re.match(pattern, cause.text, re.S):
            return say(cause.key, match[1])
    setting = f"{cause.key}={_show(cause.value)}" if cause.value else cause.key
    return f"{setting} is not allowed: {_one_line(cause.text)}" if cause.key else _one_line(cause.text)


def _unknown_key(flag: str, cause: Cause, known: Iterable[str], hint: str) -> str:
    """For a key that nothing has, and for a stray word on the command line."""
    if cause.text.startswith("unrecognized") and not flag.startswith("-"):
        return f"{flag!r} stands alone: settings are given as --KEY=VALUE, config files as -c FILE"
    name = flag.lstrip("-").partition("=")[0]
    dashes = flag[: len(flag) - len(flag.lstrip("-"))] or cause.dashes
    key, owner = f"{cause.key}.{name}".lstrip("."), cause.class_path.rpartition(".")[2]
    if not owner:
        whole = next((option for option in known if option == key or option.endswith(f".{key}")), None)
        near = nearest(key, known) or whole
        fix = f"did you mean {'--' if dashes else ''}{near}?" if near else hint
        return f"{dashes}{key} is not a known option: {fix}"
    if re.search(rf"\b{owner}\b", cause.types):  # jsonargparse took the base class for it
        fix = f"choose one first, e.g. {EXAMPLES.get(cause.key, f'--{cause.key}=CLASS')} or class_path in a config file"
        return f"{dashes}{key} has no {owner} to be a setting of: {fix}"
    settings = settings_of(cause.class_path)
    near = nearest(name, [*settings, *SPEC_KEYS])
    fix = f"did you mean {dashes}{cause.key}.{near}?" if near else f"its settings are {', '.join(settings)}"
    return f"{dashes}{key} is not a setting of {owner}: {fix}"


def _wrong_value(cause: Cause) -> str:
    """For a value of none of the types, and for a class that does not exist or is of another kind."""
    types = cause.types or annotation(cause.class_path, cause.key.rpartition(".")[2])
    name = cause.value.rpartition(".")[2]
    match = NO_CLASS.match(cause.text)
    bases = classes_in(types)
    classes = {cls.__name__ for base in bases for cls in subclasses(base) if not inspect.isabstract(cls)}
    if cause.class_path and cause.key.rpartition(".")[2] in LINKED:
        fix = "the environment gives it, remove it"
    elif match and match["module"]:
        names = [f"{match['module']}.{other}" for other in dir(importlib.import_module(match["module"]))]
        fix = _did_you_mean(cause.value, names, f"{match['module']} has no such name")
    elif match and match["missing"]:
        fix = _did_you_mean(name, classes, f"there is no module {match['missing']!r} to import")
    elif match:
        kinds = " or ".join(with_article(base.__name__) for base in bases)
        fix = _did_you_mean(name, classes, f"give {kinds} by its name, or path like package.module.Class")
    else:
        fix = _did_you_mean(name, classes, f"give {allowed(types)}")
    return f"{cause.key}={_show(cause.value)} is not allowed: {fix}"


def _without_value(options: list[str], args: Sequence[str]) -> str:
    """For a flag at the end or before another; jsonargparse names --model for all of --model.KEY."""
    ends = [arg for arg, after in zip(args, [*args[1:], "-"], strict=True) if after.startswith("-") and "=" not in arg]
    flag = next((arg for arg in ends if arg.startswith(tuple(options))), options[-1])
    return f"{flag} has no value: give {flag}{' FILE' if flag in ('-c', '--config') else '=VALUE'}"


def _required(prefix: str, names: str) -> str:
    # without a prefix the names begin with the subcommand's
    keys = [f"{prefix}.{name}" if prefix else name.partition(".")[2] or name for name in names.split(", ")]
    flags = " ".join(EXAMPLES.get(key, f"--{key}=VALUE") for key in keys)
    return (
        f"{', '.join(keys)} {'is' if len(keys) == 1 else 'are'} required: give {flags}, or a config file with -c FILE"
    )


def _beside_class_path(key: str, _: str) -> str:
    parent, _, name = key.rpartition(".")
    fix = _did_you_mean(name, SPEC_KEYS, f"write it under {parent}.init_args")
    return f"{key} is not allowed beside class_path: {fix}"


def _subcommand(_: str, given: str) -> str:
    name, *names = re.findall(r"'(.*?)'", given)
    return f"{name!r} is not a subcommand: " + _did_you_mean(name, names, f"give one of {', '.join(names)}")


def _missing_file(key: str, path: str) -> str:
    folder, name = os.path.split(path)
    shown = os.path.relpath(path) if path.startswith(os.getcwd()) else path
    otherwise = "give the path of a YAML file"
    if key == "config":
        names = nearest_names(shown)
        otherwise = (
            f"did you mean {', '.join(names)}?" if names else f"{otherwise}, or a name of `rl-lightning configs`"
        )
    beside = sorted({*os.listdir(folder)} - {name}) if os.path.isdir(folder) else []
    fix = _did_you_mean(name, beside, otherwise)
    return f"{key}={shown!r} is not a file that can be read: {fix}"


def _unresolved(_: str, text: str) -> str:
    reason, key = re.split(r"\n\s*full_key: ", text)
    fix = "; give the whole path of a key in the same file, like ${data.init_args.env_id}"
    return f"{key.replace('init_args.', '')} has no value: {reason}{fix if 'key' in reason.split() else ''}"


def _show(value: str) -> str:
    value = {"None": "null", "True": "true", "False": "false"}.get(value, value)
    value = value if len(value) <= 80 else f"{value[:77]}..."
    return value if re.match(r"(null|true|false|[-+.\d]+(e[-+\d]+)?)$|[\[{]", value) else repr(value)


def _did_you_mean(word: str, names: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(word, list(names), n=1)
    return f"did you mean {near[0]}?" if near else otherwise


def _one_line(text: str) -> str:
    return " ".join(text.split())


SAYINGS: dict[str, Callable[[str, str], str]] = {  # of jsonargparse, each with ours: from the key and what is in ()
    r"(beside class_path)": _beside_class_path,
    r"the following arguments are required: (.*)": _required,
    r"argument subcommand: invalid choice: (.*)": _subcommand,
    r'expected "subcommand" to be one of \{(.*)\}': lambda _, names: (
        f"the subcommand is missing: give {re.sub(r',[ .]*$', '', names).replace(',', ', ')}, "
        "export, configs, report or tune"
    ),
    r"(?:File|Path) [\w ]+: '(.*)'": _missing_file,
    r"(Unable to load config)": lambda key, _: (
        f"{key} has settings, not a value: give --{key}.KEY=VALUE, or KEY: VALUE under {key} in a config file"
    ),
    r"('\w+' object has no attribute 'keys')": lambda key, _: (
        f"{key}.init_args holds no settings: write them as KEY: VALUE"
    ),
    r"Problems parsing config: (.*)": lambda _, text: (
        f"not valid YAML: {re.sub(r'in .<?(unicode string|file)>?., ', 'at ', _one_line(text))}; mend it there"
    ),
    r"(Unexpected config)": lambda *_: "a config file holds keys and values, like `seed_everything: 1`: give it some",
    r"(.*\n\s*full_key: \S+)": _unresolved,  # OmegaConf's
}
