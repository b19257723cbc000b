"""`rl-lightning export`: the policy of a run or checkpoint, in a folder of its own."""

from collections.abc import Sequence

from rl_lightning.cli.help.subcommands import SUBCOMMANDS
from rl_lightning.cli.plain_parser import PlainParser
from rl_lightning.policies import export_policy
from rl_lightning.policies.folder import FILES


def export(args: Sequence[str]) -> None:
    """Export, and say how the policy is used.

    Args:
        args: of the command line, after `export`.

    Raises:
        UsageError: as of `export_policy`.
    """
    parser = PlainParser("rl-lightning export", description=SUBCOMMANDS["export"], allow_abbrev=False)
    parser.add_argument(
        "source", metavar="RUN_OR_CKPT", help="a run's folder, a checkpoint (file or URL), or an export"
    )
    parser.add_argument("--to", required=True, metavar="DIR", help="the folder to make")
    parser.add_argument("--format", default="safetensors", help=f"one of {', '.join(FILES)}; safetensors by default")
    parser.add_argument("--overwrite", action="store_true", help="an older export in its place")
    given = parser.parse_args(args)
    folder = export_policy(given.source, given.to, given.format, given.overwrite)
    print(f"Exported: {folder}\n  use       rl_lightning.load_policy({str(folder)!r})(obs)")
