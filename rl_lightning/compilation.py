"""Compiling a function of tensors that takes its own gradients."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch

R = TypeVar("R")


def compiled_or_eager(function: Callable[..., R]) -> Callable[..., R]:
    """`function` as one compiled graph, `torch.autograd.grad` included; where compiling fails, `function` itself.

    Args:
        function: takes and returns tensors; compiled when first called.

    Warns:
        UserWarning: once, where there is no C++ compiler or compiling fails.
    """
    compiled = torch.compile(function, fullgraph=True, dynamic=False)
    # patched here and not globally: other people's compiled code keeps its own setting
    tracing_autograd = torch._dynamo.config.patch(trace_autograd_ops=True)
    failed = False

    @functools.wraps(function)
    def call(*args: Any) -> R:
        nonlocal failed
        if not failed:
            try:
                with tracing_autograd:
                    return compiled(*args)
            except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
                failed = True
                reason = str(error).strip().splitlines()[0]
                warnings.warn(
                    f"gradients run eagerly, about 1.5 times slower: compiling failed ({reason})", stacklevel=2
                )
        return function(*args)

    return call
