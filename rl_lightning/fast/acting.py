"""Eval mode and no gradients while acting, at every step."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from rl_lightning.fast import switch


def acting_of(modules: Iterable[nn.Module]) -> Callable[[], AbstractContextManager[None]]:
    """A context for acting: eval mode and no gradients inside; afterwards each module is in its mode of before.

    Args:
        modules: of the learner, itself first; their modes change by `eval` and `train` if any has its own.
    """
    modules = list(modules)
    if switch.is_on() and all(_keeps_its_mode_as_torch_does(module) for module in modules):
        return partial(_acting_by_attribute, [vars(module) for module in modules])
    return partial(_acting_by_method, modules)


def _keeps_its_mode_as_torch_does(module: nn.Module) -> bool:
    own = [getattr(method, "__func__", None) for method in (module.train, module.eval)]
    return "training" in vars(module) and own == [nn.Module.train, nn.Module.eval]


@contextmanager
def _acting_by_attribute(modes: list[dict[str, Any]]) -> Iterator[None]:
    """With modes where modules keep them: eval() and train() take 20 times as long, at every step."""
    before = [attributes["training"] for attributes in modes]
    for attributes in modes:
        attributes["training"] = False
    try:
        with torch.no_grad():
            yield
    finally:
        for attributes, training in zip(modes, before, strict=True):
            attributes["training"] = training


@contextmanager
def _acting_by_method(modules: list[nn.Module]) -> Iterator[None]:
    before = [module.training for module in modules]
    modules[0].eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in zip(modules, before, strict=True):  # a parent, which changes its parts too, comes first
            if module.training != training:
                module.train(training)
