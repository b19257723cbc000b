"""Compiling a function of tensors that takes its own gradients."""

import functools
import warnings
from collections.abc import Callable, Sequence
from types import FunctionType, MethodType
from typing import Any, TypeVar

import torch

from rl_lightning.fast import switch

R = TypeVar("R")
CPU = torch.device("cpu")

_FAILURES = (
    torch._dynamo.exc.TorchDynamoException,
    torch._dynamo.exc.FailOnRecompileLimitHit,
    torch._inductor.exc.InductorError,
)


# Of what a graph was made from, that which may change in a run: numbers and flags (of learners, by callbacks), the
# shapes and dtypes of what goes in, the mode of gradients. Watching every module, hook and function as well takes more
# time, at every call, than the gradients of a small network.
_WATCHED = ("CONSTANT_MATCH", "EQUALS_MATCH", "GRAD_MODE", "GLOBAL_STATE", "SEQUENCE_LENGTH", "SHAPE_ENV")


def _worth_watching(guards: Sequence[Any]) -> list[bool]:
    return [
        guard.guard_type in _WATCHED or (guard.guard_type == "TENSOR_MATCH" and "_parameters" not in guard.name)
        for guard in guards
    ]


def _options(device: torch.device) -> dict[str, Any]:
    """For `torch.compile`, which takes some of them out of the dict that it is given."""
    options: dict[str, Any] = {"guard_filter_fn": _worth_watching}
    if device.type == "cuda":
        # its kernels are called from Python there: with calls from C++ torch leaves CUDA graphs out
        return options | {"triton.cudagraphs": switch.has_cuda_graphs()}
    # from Python, the calls of kernels take a sixth of a small network's gradients
    return options | {"cpp_wrapper": True}


def _copy(function: Callable[..., R]) -> Callable[..., R]:
    """The function with a code object of its own, by which torch keeps graphs.

    Learners of one class would share them otherwise, though they may differ in what is not watched.
    """
    inner = getattr(function, "__func__", function)
    copy = FunctionType(
        inner.__code__.replace(), inner.__globals__, inner.__name__, inner.__defaults__, inner.__closure__
    )
    return MethodType(copy, function.__self__) if hasattr(function, "__self__") else copy


def writes_over_results(device: torch.device) -> bool:
    """Whether a compiled function's results on this device are good only until the next call of a compiled function."""
    return switch.has_cuda_graphs() and switch.is_on() and device.type == "cuda"


def compiled_or_eager(function: Callable[..., R], device: torch.device = CPU) -> Callable[..., R]:
    """`function` as one compiled graph, `torch.autograd.grad` included; where compiling fails, `function` itself.

    As a CUDA graph it returns memory that the next call of any of them writes over: see `writes_over_results`.

    Args:
        function: takes and returns tensors; compiled when first called.
        device: of the tensors.

    Warns:
        UserWarning: once, where there is no C++ compiler or compiling fails.
    """
    if not switch.is_on():
        return function
    own = _copy(function)
    compiled = torch.compile(own, fullgraph=True, dynamic=False, options=_options(device))
    # patched here and not globally: other people's compiled code keeps its own settings. Inside Lightning's DDP wrapper
    # torch would cut the graph into the wrapper's buckets, to overlap an exchange that learners do not leave to it
    settings = torch._dynamo.config.patch(trace_autograd_ops=True, optimize_ddp=False)
    is_cuda_graph, failed = writes_over_results(device), False

    @functools.wraps(function)
    def call(*args: Any) -> R:
        nonlocal failed
        if not failed:
            try:
                with settings:
                    if is_cuda_graph:
                        # nothing waits for what an earlier call returned
                        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
                    return compiled(*args)
            except _FAILURES as error:
                failed = True
                reason = str(error).strip().splitlines()[0]
                warnings.warn(
                    f"gradients run eagerly, about 1.5 times slower: compiling failed ({reason})", stacklevel=2
                )
        return function(*args)

    return call
