"""Layers one after the other, past `nn.Module.__call__` where that would do no more than call `forward`."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from rl_lightning.fast import switch

_CALL = nn.Module.__call__  # torch's own: tracers put another in its place


def one_after_the_other(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """As nn.Sequential has it; with one observation that takes a fifth longer."""
    # a compiler sees through the call, and would warn of the switch's cache
    plainly = torch.compiler.is_compiling() or not switch.is_on() or _has_any_global_hook()  # type: ignore[no-untyped-call]
    for layer in layers:
        x = layer(x) if plainly or not _is_its_forward(layer) else layer.forward(x)
    return x


def _is_its_forward(layer: nn.Module) -> bool:
    """Whether calling a layer is nothing but its `forward`, as long as there are no hooks for all modules."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return not hooks and layer._compiled_call_impl is None and type(layer).__call__ is _CALL
