"""Checkpoints are data: tensors and primitives, written whole, read with `weights_only=True`, checked before use.

What Lightning's trainer reads and writes them by is in `rl_lightning.checkpoints.io`: `load_policy` reads without it.
"""

from rl_lightning.checkpoints.file import fault_of, intact_beside, link, read, write
from rl_lightning.checkpoints.restoring import (
    KEY,
    SCHEMA,
    Continued,
    check_networks,
    check_resumable,
    check_schema,
    check_signature,
    checkpoint_of_run,
    continue_optimizers,
    load_checkpoint,
    local_file,
    moved_on,
    signature,
)

__all__ = [
    "KEY",
    "SCHEMA",
    "Continued",
    "check_networks",
    "check_resumable",
    "check_schema",
    "check_signature",
    "checkpoint_of_run",
    "continue_optimizers",
    "fault_of",
    "intact_beside",
    "link",
    "load_checkpoint",
    "local_file",
    "moved_on",
    "read",
    "signature",
    "write",
]
