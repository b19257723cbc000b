"""Divergence: losses or weights that are no numbers any more, found before they are saved, evaluated or reported."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rl_lightning.algorithms.shared.learned import Metrics
from rl_lightning.errors import Divergence
from rl_lightning.types import State

FIX = "lower the learning rates, clip gradients or scale the reward, and go on from a checkpoint of before"


def check_finite(learner: nn.Module, learned: Mapping[str, nn.Module], metrics: Metrics, env_steps: int) -> None:
    """Refuse a learner that has diverged.

    Args:
        learner: all of whose parameters are looked at, those of targets too.
        learned: its networks by the names of their optimizers.
        metrics: of the latest gradient step; those whose name ends with ``loss`` are looked at.
        env_steps: of the run so far, for the message.

    Raises:
        Divergence: naming the network and the loss that is not finite.
    """
    losses = {name: metric.mean().item() for name, metric in metrics.items() if name.endswith("loss")}
    lost = {name: value for name, value in losses.items() if not math.isfinite(value)}
    parameters = [parameter for parameter in learner.parameters() if parameter.numel()]
    # a sum is finite only where all its terms are, and takes a tenth of the time that looking at each of them does
    if not lost and (not parameters or torch.stack([parameter.sum() for parameter in parameters]).isfinite().all()):
        return
    candidates = {**learned, **dict(learner.named_children())}
    network = next((name for name, module in candidates.items() if _has_lost(module.parameters())), None)
    if network is None and not lost:
        return  # a sum of large weights
    of_network = [name for name in lost if network is not None and name.endswith(f"{network}_loss")]
    loss = next(iter([*of_network, *lost]), None)
    weights = f"the weights of {network} are not finite" if network else ""
    shown = f"{loss} is {lost[loss]}" if loss else ""
    what = " and ".join(filter(None, [weights, shown]))
    raise Divergence(f"{what} at environment step {env_steps}: the learner has diverged; {FIX}")


def check_optimizer_states(states: Iterable[State], names: Iterable[str], env_steps: int) -> None:
    """Refuse moments that are not finite, which weights need not show: a second moment of infinity lets them stand.

    Args:
        states: `state_dict` of each optimizer.
        names: of the networks that they move, in the same order.
        env_steps: of the run so far, for the message.

    Raises:
        Divergence: naming the optimizer and what in its state is not finite.
    """
    for state, name in zip(states, names, strict=True):
        for moments in state["state"].values():
            for key, value in moments.items():
                if isinstance(value, Tensor) and _has_lost([value]):
                    raise Divergence(
                        f"{key} of {name}_optimizer is not finite at environment step {env_steps}: the learner has "
                        f"diverged; {FIX}"
                    )


def finite(action: Tensor) -> Tensor:
    """An action of the policy in evaluation, as it is.

    Raises:
        Divergence: where it is not finite; the environment would be blamed for what it makes of it.
    """
    if action.is_floating_point() and not math.isfinite(action.sum().item()):
        raise Divergence(f"the policy's action {action.tolist()} in evaluation is not finite: it has diverged; {FIX}")
    return action


@contextmanager
def traced_to_divergence(check: Callable[[], None]) -> Iterator[None]:
    """Name divergence as the cause of what it breaks: distributions, environments and decompositions refuse NaN too.

    Args:
        check: raises `Divergence` where a learner has diverged; called after an error.
    """
    try:
        yield
    except Exception as error:
        try:
            check()
        except Divergence as divergence:
            raise divergence from error
        raise


def _has_lost(tensors: Iterable[Tensor]) -> bool:
    """Whether any of them holds NaN or infinity."""
    return any(not tensor.isfinite().all() for tensor in tensors)
