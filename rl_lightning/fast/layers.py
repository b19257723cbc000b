"""Layers one after the other, past `nn.Module.__call__` where that would do no more than call `forward`."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeGuard
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from rl_lightning.fast import switch

_CALL = nn.Module.__call__  # torch's own: tracers put another in its place
_FORWARD = {kind: kind.forward for kind in (nn.Linear, nn.Tanh, nn.Sequential)}  # likewise

Step = Callable[[Any], Any]
"""What a layer, or the last part of a forward pass, makes of what came before."""


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


class Way(NamedTuple):
    """What the forward pass of a module comes to.

    Args:
        modules: called one after the other; an nn.Sequential among them layer by layer.
        last: called with what they return.
        around: modules that are gone past; a hook on one of them would not be called.
    """

    modules: Sequence[nn.Module]
    last: Step
    around: Sequence[nn.Module]


class _Plan(NamedTuple):
    """The steps of a way, and what must be as it was when they were noted."""

    steps: list[Step]
    parts: list[tuple[dict[str, Any], dict[str, Any]]]  # of each module, as they are and as they were
    hooks: list[dict[int, Any]]
    attributes: list[dict[str, Any]]

    def holds(self) -> bool:
        """Whether calling each module still is nothing but the `forward` of its class."""
        return (
            all([present == noted for present, noted in self.parts])
            and not any(self.hooks)
            and not any(["forward" in own or "_compiled_call_impl" in own for own in self.attributes])
        )


_PLANS: WeakKeyDictionary[nn.Module, _Plan] = WeakKeyDictionary()


def steps_of(owner: nn.Module, way: Callable[[], Way | None]) -> list[Step] | None:
    """The steps of a forward pass of `owner`, layer by layer; None where calling its modules could do more.

    With one observation, calling the modules takes longer than their products; to look through all of them once takes
    a small part of that. Parameters are looked up at every step, so they may be exchanged.

    Args:
        owner: of all modules of the way.
        way: asked for again when a module has been exchanged; None where it is not known.
    """
    if torch.compiler.is_compiling() or not switch.is_on() or not _calls_are_torchs_own():
        return None
    plan = _PLANS.get(owner)
    if plan is None or not plan.holds():
        present = way()
        if present is None:
            return None
        plan = _PLANS[owner] = _plan(present)
        if not plan.holds():
            return None
    return plan.steps


def _calls_are_torchs_own() -> bool:
    patched = nn.Module.__call__ is not _CALL or any([kind.forward is not own for kind, own in _FORWARD.items()])
    return not patched and not _has_any_global_hook()  # type: ignore[no-untyped-call]


def _plan(way: Way) -> _Plan:
    layers: list[nn.Module] = []
    for module in way.modules:
        layers += module if _is_a_sequence(module) else [module]
    watched = [*way.around, *way.modules, *layers]
    return _Plan(
        [*(_step(layer) for layer in layers), way.last],
        [(module._modules, dict(module._modules)) for module in watched],
        [
            hooks
            for each in watched
            for hooks in (each._forward_hooks, each._forward_pre_hooks, each._backward_hooks, each._backward_pre_hooks)
        ],
        [vars(module) for module in watched],
    )


def _is_a_sequence(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether its `forward` is to call its parts one after the other."""
    own = type(module)
    in_turn = own.forward in (nn.Sequential.forward, one_after_the_other)
    return isinstance(module, nn.Sequential) and in_turn and own.__call__ is _CALL


def _step(layer: nn.Module) -> Step:
    if type(layer) is nn.Linear and "weight" in layer._parameters:  # an old weight_norm makes it an attribute
        return _linear(layer._parameters)
    if type(layer) is nn.Tanh:
        return torch.tanh
    return layer.forward if type(layer).__call__ is _CALL else layer


def _linear(parameters: dict[str, Any]) -> Step:
    linear = torch._C._nn.linear
    return lambda x: linear(x, parameters["weight"], parameters["bias"])
