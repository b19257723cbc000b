"""A learned network, with what moves it; and the gradients that it is moved by."""

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, NamedTuple, Self

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from rl_lightning.checkpoints import Continued
from rl_lightning.errors import UsageError
from rl_lightning.fast.optim import refuse_ignored
from rl_lightning.optim import EnvStepsLR, ForeachRMSprop, FusedAdam

Metrics = dict[str, Tensor]  # by the name they are logged under: scalars, or [B], whose mean is logged


class Gradients(NamedTuple):
    """What a learner's `gradients` finds at one minibatch."""

    of: dict[
        str, tuple[Tensor, ...]
    ]  # by the name of a learned network: of each of its parameters that learn, in order
    metrics: Metrics
    td_error: Tensor | None = None  # [B], for prioritized replay
    approx_kl: Tensor | None = None  # scalar, for `target_kl`

    def detach(self) -> Self:
        """The same, without the graph that they were found by."""
        return self._replace(
            metrics={name: metric.detach() for name, metric in self.metrics.items()},
            td_error=None if self.td_error is None else self.td_error.detach(),
            approx_kl=None if self.approx_kl is None else self.approx_kl.detach(),
        )

    def averaged(self, mean: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]) -> Self:
        """The same, but gradients and `approx_kl` are averaged over processes, by one `mean`."""
        every = [gradient for own in self.of.values() for gradient in own]
        averages = iter(mean((*every, *(() if self.approx_kl is None else (self.approx_kl,)))))
        of = {name: tuple(next(averages) for _ in own) for name, own in self.of.items()}
        return self._replace(of=of, approx_kl=next(averages, None))


class Learned(NamedTuple):
    """A network, and the optimizer that moves it and nothing else.

    `make` gives a new optimizer each time.
    """

    name: str
    network: nn.Module
    optimizer: OptimizerCallable
    scheduler: LRSchedulerCallable | None

    def make(self) -> Continued:
        """The optimizer, and its learning-rate scheduler if there is one.

        Raises:
            UsageError: settings that optimizer or scheduler refuse, an optimizer that needs a closure or has other
                parameters than the network's, a scheduler that waits for a metric or that another one would step.
        """
        setting = f"{self.name}_optimizer"
        parameters = {id(parameter): name for name, parameter in self.network.named_parameters()}
        try:
            optimizer = self.optimizer(trainable(self.network))
            setting = f"{self.name}_scheduler"
            scheduler = self.scheduler(optimizer) if self.scheduler else None
            if isinstance(optimizer, FusedAdam | ForeachRMSprop):  # OneCycleLR cycles momentum too
                for group in optimizer.param_groups:
                    refuse_ignored(optimizer, group)
        except UsageError as error:  # ours say what to give
            raise UsageError(f"{setting} is not allowed: {error}") from error
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"{setting} is not allowed: {error}; give settings that it takes (a learning rate is 0 or more)"
            ) from error
        closure = signature(optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:  # LBFGS
            raise UsageError(
                f"{self.name}_optimizer={type(optimizer).__name__} is not allowed: it needs the loss again within a "
                "step, which is taken along one gradient; give one that does not, e.g. Adam or SGD"
            )
        self._check_parameters(optimizer, parameters)
        if isinstance(scheduler, ReduceLROnPlateau):
            raise UsageError(
                f"{self.name}_scheduler=ReduceLROnPlateau is not allowed: schedulers step at every gradient step, "
                "without a metric; give one that counts steps, e.g. CosineAnnealingLR"
            )
        inner = scheduler.state_dict().get("_schedulers", []) if scheduler else []
        if any("final_factor" in state and "done" in state for state in inner):
            raise UsageError(
                f"{self.name}_scheduler={type(scheduler).__name__} is not allowed with EnvStepsLR in it: that follows "
                "environment steps, the others count gradient steps; give one of the two kinds"
            )
        return Continued(optimizer, scheduler, parameters)

    def _check_parameters(self, optimizer: Optimizer, parameters: dict[int, str]) -> None:
        moved = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        learn = [id(parameter) for parameter in trainable(self.network)]
        if missing := [parameters[key] for key in learn if key not in moved]:
            raise UsageError(
                f"{self.name}_optimizer leaves out {', '.join(missing[:3])} of {self.name}'s {len(learn)} "
                "parameters: give it all of them, in groups of any order"
            )
        if strange := moved - parameters.keys():
            raise UsageError(
                f"{self.name}_optimizer has {len(strange)} parameters that are not {self.name}'s: "
                "give it those that it is called with"
            )


class Stepper:
    """Moves one learned network by its own gradients.

    Args:
        step: the optimizer's.
        network: whose parameters the gradients are of.
        scheduler: of the learning rate, stepped after the optimizer unless it follows the run's clock.
    """

    def __init__(self, step: Callable[[], Any], network: nn.Module, scheduler: LRScheduler | None) -> None:
        self.step, self.parameters = step, trainable(network)
        self.scheduler = None if isinstance(scheduler, EnvStepsLR) else scheduler

    def __call__(self, gradients: tuple[Tensor, ...]) -> None:
        """One step along gradients of the parameters, in the network's order, whatever the optimizer's groups are."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = laid_out_like(parameter, gradient)
        self.step()
        if self.scheduler is not None:
            self.scheduler.step()


def laid_out_like(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with its entries in memory as the parameter's are; a copy where they are not yet.

    `torch.autograd.grad` gives them as the backward pass has made them: channels last, transposed, or one entry for
    many. Fused kernels read parameter and gradient side by side and look at no strides.
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn: those that nobody has frozen for good by `requires_grad_(False)`."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def grad(loss: Tensor, network: nn.Module) -> tuple[Tensor, ...]:
    """∂loss/∂parameters of a network, in the order of those that learn."""
    [gradients] = grads(loss, [network])
    return gradients


def grads(loss: Tensor, networks: Sequence[nn.Module]) -> list[tuple[Tensor, ...]]:
    """∂loss/∂parameters of several networks, in one backward pass."""
    parameters = [trainable(network) for network in networks]
    every = [parameter for own in parameters for parameter in own]
    flat = iter(torch.autograd.grad(loss, every) if every else ())
    return [tuple(next(flat) for _ in own) for own in parameters]
