"""Which of the trainer's precisions a learner can take its gradients in."""

import torch
from lightning.pytorch.utilities import rank_zero_warn

from rl_lightning.errors import require
from rl_lightning.fast.stepping import has_bf16_arithmetic


def check_precision(precision: str | int | None) -> None:
    """Refuse precisions that gradients cannot be taken in: they need float32 weights, and no loss scaling.

    Raises:
        UsageError: for any but float32 and bf16-mixed.
    """
    require(
        precision in (None, 32, "32", "32-true", "bf16-mixed", "bf16"),
        "trainer.precision",
        precision,
        "gradients are taken of float32 weights without loss scaling; give 32-true or bf16-mixed",
    )


def warn_of_emulation(precision: str | int | None, device: torch.device) -> None:
    """Say that bf16-mixed is slow on a processor without bf16 arithmetic.

    Warns:
        UserWarning: naming the precision to give.
    """
    if str(precision).startswith("bf16") and device.type == "cpu" and not has_bf16_arithmetic():
        rank_zero_warn(
            f"trainer.precision={precision} is emulated on this processor, which has no bf16 arithmetic: it is about "
            "ten times slower than 32-true; give that"
        )
