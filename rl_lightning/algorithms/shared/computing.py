"""How functions of gradients are run: as one compiled graph, without the graph that the gradients were found by."""

from collections.abc import Callable
from typing import Any

import torch

from rl_lightning.algorithms.shared.learned import Gradients
from rl_lightning.fast.compilation import compiled_or_eager, writes_over_results


def as_run(gradients: Callable[..., Gradients], device: torch.device, compile: bool) -> Callable[..., Gradients]:
    """The same function, as learners call it.

    Args:
        gradients: of minibatches on the device; pure.
        device: where it is run.
        compile: as one graph; where that fails it runs eagerly, with one warning.
    """
    run = detached(gradients)
    if compile:
        run = compiled_or_eager(run, device)
        run = kept(run) if writes_over_results(device) else run

    def as_run(*batch: Any) -> Gradients:
        metrics, of, td_error, approx_kl = run(*batch)
        return Gradients(of, metrics, td_error, approx_kl)

    return as_run


def detached(gradients: Callable[..., Gradients]) -> Callable[..., tuple[Any, ...]]:
    """The same function, as a compiler takes it: a tuple without the graph that the gradients were found by."""

    # metrics first: a compiler fuses by the order of its outputs, and so decides on the last digit of a sum
    def detached(*batch: Any) -> tuple[Any, ...]:
        found = gradients(*batch).detach()
        return found.metrics, found.of, found.td_error, found.approx_kl

    return detached


def kept(compute: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """A function of `detached`, with copies of all that it finds but the gradients.

    Metrics are read at a row and TD errors after a step, when a CUDA graph may have written over what it returned.
    Gradients are stepped along before the next are taken.
    """

    def kept(*batch: Any) -> tuple[Any, ...]:
        metrics, of, td_error, approx_kl = compute(*batch)
        copies = {name: metric.clone() for name, metric in metrics.items()}
        return copies, of, *(None if found is None else found.clone() for found in (td_error, approx_kl))

    return kept
