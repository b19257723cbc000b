"""How Lightning's trainer reads and writes our checkpoints."""

from copy import deepcopy
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import Strategy

from rl_lightning.checkpoints.file import read, write
from rl_lightning.checkpoints.restoring import check_schema, local_file
from rl_lightning.errors import require


def keep_checkpoints_whole(strategy: Strategy) -> None:
    """Give a strategy that has Lightning's own way with checkpoints ours; one that was given as a plugin stays."""
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = AtomicCheckpointIO()


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or not there at all, checked bit by bit as they are read, and hold only data.

    Every learner gives it to a trainer that has Lightning's own; one that was given as a plugin stays. Paths of other
    kinds than local files, ``s3://`` for example, are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            UsageError: where that fails; what was saved before is still there.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write(checkpoint, path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint, on the CPU.

        Raises:
            UsageError: one that is missing, damaged, newer than this program, or more than data.
        """
        require(weights_only is not False, "weights_only", weights_only, "a checkpoint is data; leave it out")
        file = local_file(path)
        if "://" in str(file):
            checkpoint = super().load_checkpoint(path, map_location="cpu", weights_only=True)  # type: ignore[arg-type]
        else:
            checkpoint = read(file)
        check_schema(checkpoint, str(path))
        if "optimizer_states" in checkpoint:  # torch keeps these very tensors, which are still in the file
            checkpoint["optimizer_states"] = deepcopy(checkpoint["optimizer_states"])
        return checkpoint
