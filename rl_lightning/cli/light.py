"""What is answered without torch and Lightning, whose import takes seconds."""

from collections.abc import Sequence

from rl_lightning.cli.help.short import short_help
from rl_lightning.cli.shipped import list_configs


def answered(args: Sequence[str]) -> bool:
    """Print the short help or the list of configs that is asked for; False where something else is.

    Args:
        args: the command line without the program's name.
    """
    if (text := short_help(args)) is not None:
        print(text)
    elif args[:1] == ["configs"]:
        list_configs(args[1:])
    else:
        return False
    return True
