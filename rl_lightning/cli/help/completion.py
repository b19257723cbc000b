"""`rl-lightning completion bash`: a script by which the Tab key completes settings, without starting Python."""

import inspect
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal, get_args, get_origin

from jsonargparse import ArgumentParser
from torch.nn import Module

from rl_lightning import Algorithm
from rl_lightning.cli.help.scripts import BASH, ZSH
from rl_lightning.cli.help.subcommands import SUBCOMMANDS
from rl_lightning.cli.lookups import load, made_by, settings_of, subclasses
from rl_lightning.cli.plain_parser import PlainParser
from rl_lightning.cli.shipped import classes_of, names, spaces
from rl_lightning.data.base import EnvironmentDataModule

COMPARE = ("--metric=", "--normalize=", "--output=", "--overwrite")  # its flags
TUNE = ("--trials=", "--pruner=", "--seed=", "--resume=", "--wandb-sweep=", "--space=")  # beside those of fit
KINDS = {"--model": Algorithm, "--data": EnvironmentDataModule}
WHERE = """\
where it goes:
  bash  rl-lightning completion bash > \\
            ~/.local/share/bash-completion/completions/rl-lightning
  zsh   rl-lightning completion zsh > ~/.rl-lightning.zsh
        and in ~/.zshrc, after compinit:  source ~/.rl-lightning.zsh
  fish  rl-lightning completion fish > \\
            ~/.config/fish/completions/rl-lightning.fish

Write it anew after an upgrade: it has the settings of the version that wrote it."""


def completion(args: Sequence[str], parser: ArgumentParser) -> str:
    """The script.

    Args:
        args: of the command line, after `completion`: the shell.
        parser: that has the subcommands.
    """
    plain = PlainParser(
        "rl-lightning completion",
        description=SUBCOMMANDS["completion"],
        epilog=WHERE,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    scripts = {"bash": _bash, "zsh": lambda *words: ZSH + _bash(*words), "fish": _fish}
    plain.add_argument("shell", choices=scripts, metavar="SHELL", help=f"one of {', '.join(scripts)}")
    return scripts[plain.parse_args(args).shell](words_of_program(parser), words_of_classes())


def words_of_program(parser: ArgumentParser) -> list[str]:
    """``--KEY=`` for all that `fit` takes beside learner and datamodule; where few values are allowed, those too."""
    assert parser._subcommands_action is not None
    fit, words = parser._subcommands_action.choices["fit"], ["--seeds=", "--jobs="]  # of several runs
    for option, action in fit._option_string_actions.items():
        if option.startswith("--"):
            words += _words(option, getattr(action, "_typehint", None)) if action.nargs != 0 else [option]
    return words + [f"{option}={cls.__name__}" for option, base in KINDS.items() for cls in _kinds_of(base)]


def words_of_classes() -> dict[str, list[str]]:
    """The same for the settings of each learner and datamodule, by its name."""
    return {cls.__name__: [*_words_inside(cls, option)] for option, base in KINDS.items() for cls in _kinds_of(base)}


def _kinds_of(base: type) -> list[type]:
    """What can be given by its name where a `base` is asked for."""
    return [cls for cls in _ours(base) if cls is not base]


def _ours(base: type) -> list[type]:
    """The classes of this package that are a `base`."""
    found = [
        cls for cls in subclasses(base) if cls.__module__.startswith("rl_lightning.") and not inspect.isabstract(cls)
    ]
    return sorted(found, key=lambda cls: cls.__name__)


def _words_inside(owner: type, prefix: str) -> Iterator[str]:
    """Words of a class's settings, and of those of the objects that can be given it."""
    for setting in _settings(f"{owner.__module__}.{owner.__qualname__}"):
        option = f"{prefix}.{setting.name}"
        yield from _words(option, setting.types)
        # any network is a Module; of others, all that are ours
        bases = [base for base in made_by(setting.types) if base is not Module]
        default = [load(setting.class_path)] if setting.class_path else []
        inner = [*default, *(cls for base in bases for cls in _ours(base))]
        yield from dict.fromkeys(word for cls in inner for word in _words_inside(cls, option))


_settings = cache(settings_of)  # an optimizer's are asked for of every learner


def _words(option: str, types: Any) -> list[str]:
    return [f"{option}=", *(f"{option}={value}" for value in _values(types))]


def _values(types: Any) -> list[str]:
    """All values that are allowed, where they are few."""
    if types is bool:
        return ["true", "false"]
    if get_origin(types) is Literal:
        return [str(value) for value in get_args(types)]
    return [value for one in get_args(types) if get_origin(types) not in (list, dict) for value in _values(one)]


def _bash(program: Sequence[str], classes: Mapping[str, Sequence[str]]) -> str:
    models = [name for name, words in classes.items() if words[0].startswith("--model")]
    cases = [f"    {name}) words='{' '.join(words)}' ;;" for name, words in classes.items()]
    configs = [f"    {name}) model={model} data={data} ;;" for name in names() for model, data in [classes_of(name)]]
    text = BASH.replace("@SUBCOMMANDS@", " ".join(SUBCOMMANDS)).replace("@CONFIGS@", " ".join(names()))
    text = text.replace("@WORDS_OF_CLASSES@", "\n".join(cases)).replace("@CLASSES_OF_CONFIGS@", "\n".join(configs))
    text = text.replace("@MODELS@", " ".join(models))
    text = text.replace("@COMPARE@", " ".join(COMPARE)).replace("@TUNE@", " ".join(_of_tune()))
    text = text.replace("@DATA@", " ".join(name for name in classes if name not in models))
    return text.replace("@PROGRAM@", " ".join(program))


def _of_tune() -> list[str]:
    return [*TUNE, *(f"--space={name}" for name in spaces())]


def _fish(program: Sequence[str], classes: Mapping[str, Sequence[str]]) -> str:
    trains = "-n '__fish_seen_subcommand_from fit validate test predict resume tune'"
    lines = ["complete -c rl-lightning -f"]
    lines += [
        f'complete -c rl-lightning -n __fish_use_subcommand -a {name} -d "{text}"' for name, text in SUBCOMMANDS.items()
    ]
    lines += ["complete -c rl-lightning -n '__fish_seen_subcommand_from resume report export compare' -F"]
    lines += ["complete -c rl-lightning -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'"]
    lines += [f"complete -c rl-lightning {trains} -s c -l config -r -F -a '{' '.join(names())}'"]
    lines += _fish_options([*program, *(word for words in classes.values() for word in words)], trains)
    lines += _fish_options(COMPARE, "-n '__fish_seen_subcommand_from compare'")
    lines += _fish_options(_of_tune(), "-n '__fish_seen_subcommand_from tune'")
    return "\n".join(lines)


def _fish_options(words: Iterable[str], where: str) -> Iterator[str]:
    """Lines for flags and their values, where the command line is of some subcommands."""
    values: dict[str, list[str]] = {}
    for word in dict.fromkeys(words):
        option, _, value = word.removeprefix("--").partition("=")
        values.setdefault(option, []).extend([value] if value else [])
    for option, of in values.items():
        if option != "config":
            values_or_files = f"-x -a '{' '.join(of)}'" if of else "-r -F"
            yield f"complete -c rl-lightning {where} -l {option} {values_or_files}"
