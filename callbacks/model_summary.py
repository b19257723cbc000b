"""The table of a learner's networks that Lightning prints before a run."""

from typing import Any

from lightning.pytorch.callbacks import RichModelSummary
from lightning.pytorch.utilities import rank_zero_only
from rich import get_console
from rich.table import Table


class NetworkSummary(RichModelSummary):
    """Lightning's, without what says nothing of a learner: FLOPs, for which there is no `forward`, and modes."""

    @staticmethod
    @rank_zero_only
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        *_: Any,
        **__: Any,
    ) -> None:
        """Print names, kinds and sizes, and how many parameters are learned.

        Args:
            summary_data: Lightning's columns, each with its title.
            total_parameters: of all networks, targets included.
            trainable_parameters: of those that optimizers move.
        """
        columns = dict(summary_data)
        table = Table()
        for title in ("Name", "Type", "Params"):
            table.add_column(title, justify="right" if title == "Params" else "left")
        for row in zip(columns["Name"], columns["Type"], columns["Params"], strict=True):
            table.add_row(*row)
        get_console().print(table)
        print(f"{trainable_parameters:,} of {total_parameters:,} parameters are learned")
