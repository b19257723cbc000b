"""`--model.help=SAC`: the settings of a class, each with its meaning, type and default."""

import inspect
import textwrap
from typing import Any

from rl_lightning.cli.lookups import Setting, in_words, load, settings_of, subclasses

WIDTH = 80
COLUMN = 26  # where meanings begin


def class_help(class_path: str, key: str) -> str:
    """The page: settings of a class, or of an abstract one the classes that there are of it.

    Args:
        class_path: of the class.
        key: whose value it is, like ``model``.
    """
    target = load(class_path)
    if inspect.isabstract(target):
        kinds = sorted((cls for cls in subclasses(target) if not inspect.isabstract(cls)), key=lambda cls: cls.__name__)
        lines = [_beside(cls.__name__, _summary(cls)) for cls in kinds]
        return "\n".join([f"The settings of each: --{key}.help=NAME", "", *lines])
    settings = settings_of(class_path)
    if key.partition(".")[0] not in ("model", "data", "trainer"):
        key = f"model.{key}"  # jsonargparse leaves this out for what a learner is given
    lines = [_beside(setting.name, _text(setting)) for setting in settings]
    objects = [
        f"  rl-lightning fit --{key}={target.__name__} --{key}.{name}.help={cls}"
        for name, cls in _objects(settings).items()
    ]
    if objects:
        lines += ["", f"What an object takes is set by --{key}.NAME.KEY=VALUE, and told by", *objects]
    usage = f"Settings, as --{key}.NAME=VALUE or under init_args in a config:"
    return "\n".join([textwrap.fill(f"{target.__name__}: {_summary(target)}", WIDTH), "", usage, "", *lines])


def _objects(settings: list[Setting]) -> dict[str, str]:
    """One setting for each class that is there by default."""
    found = {setting.class_path: setting.name for setting in reversed(settings) if setting.class_path}
    return {name: path.rpartition(".")[2] for path, name in reversed(found.items())}


def _text(setting: Setting) -> str:
    default = "required" if setting.required else f"by default {_shown(setting.default)}"
    return f"{setting.meaning} ({in_words(setting.types)}; {default})".strip()


def _shown(value: Any) -> str:
    """As it is written in a config; of an object its class and arguments."""
    if isinstance(value, dict) and "class_path" in value:
        arguments = ", ".join(f"{name}={_shown(one)}" for name, one in value.get("init_args", {}).items())
        name = str(value["class_path"]).rpartition(".")[2]
        return f"{name}({arguments})" if arguments else name
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _beside(name: str, text: str) -> str:
    """A name, and the text in the column beside it, or below it where it is long."""
    start = f"  {name}".ljust(COLUMN)
    if len(start) > COLUMN:
        return f"{start}\n{_beside('', text)}"
    return textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * COLUMN, break_on_hyphens=False)


def _summary(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")
