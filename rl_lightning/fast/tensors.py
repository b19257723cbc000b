"""Many small tensors in one call."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rl_lightning.fast import switch


@torch.no_grad()
def lerp(target: Sequence[Tensor], online: Sequence[Tensor], tau: float) -> None:
    """target ← target + τ (online − target) in place, for all tensors in one call."""
    if switch.is_on():
        torch._foreach_lerp_(list(target), list(online), tau)
    else:
        for old, new in zip(target, online, strict=True):
            old.lerp_(new, tau)
