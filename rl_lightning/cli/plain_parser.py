"""The parser of subcommands that need no trainer."""

from argparse import ArgumentParser
from typing import NoReturn


class PlainParser(ArgumentParser):
    """Python's parser, which tells a mistake in one line and exits with code 2."""

    def error(self, message: str) -> NoReturn:
        """Print the line, with where to look."""
        self.exit(2, f"error: {message}: `{self.prog} --help` lists what can be given\n")
