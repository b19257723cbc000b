from lightning.pytorch.cli import LightningArgumentParser


class OneLineErrorParser(LightningArgumentParser):
    """STUB being written."""


def config_files_first(args: list[str]) -> list[str]:
    """Move every ``--config FILE`` right behind the subcommand, so that flags win wherever they stand."""
    files, rest = [], []
    arguments = iter(args)
    for argument in arguments:
        if argument in ("-c", "--config"):
            files += [argument, *([value] if (value := next(arguments, None)) is not None else [])]
        elif argument.startswith("--config=") or (argument.startswith("-c") and not argument.startswith("--")):
            files.append(argument)
        else:
            rest.append(argument)
    return [*rest[:1], *files, *rest[1:]]
