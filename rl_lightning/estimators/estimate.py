"""From a surrogate, whose gradient by θ is an estimator, to the gradients of every sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution as TorchDistribution
from torch.func import functional_call, grad, vmap

from rl_lightning.errors import UsageError, require
from rl_lightning.estimators.policies import Pi, log_prob
from rl_lightning.networks import PolicyAndValue
from rl_lightning.types import Obs, map_obs

Baseline = Callable[[Obs], Tensor] | Tensor
"""b(s): a function of observations [B, *obs_shape] to [B], or its values [B]."""

Surrogate = Callable[..., Tensor]
"""Of π(·|s) and of tensors with a batch dimension, to [B]; its gradient by π's parameters is an estimator of ∇J."""


class Batch(NamedTuple):
    """Samples, each of which gives an estimate of the gradient."""

    obs: Obs  # [B, *obs_shape]
    action: Tensor  # [B, *action_shape], a ~ π(·|s)
    signal: Tensor | None = None  # [B], Q̂(s, a): a return G_t, an advantage, or a critic's value
    discount: Tensor | None = None  # [B], γ^t, by which each sample is multiplied (lecture, Algorithm 1)


@dataclass(frozen=True)
class Estimate:
    """Of ∇J, by the names of the policy's parameters; along it J rises. Estimates can be added, and scaled.

    Attributes:
        per_sample: [B, *shape of the parameter] each.
    """

    per_sample: dict[str, Tensor]

    @property
    def gradient(self) -> dict[str, Tensor]:
        """The mean over the batch, each of its parameter's shape."""
        return {name: samples.mean(0) for name, samples in self.per_sample.items()}

    @property
    def flat(self) -> Tensor:
        """`per_sample` with all parameters in a row, [B, P]."""
        return torch.cat([samples.reshape(len(samples), -1) for samples in self.per_sample.values()], 1)

    def variance(self) -> float:
        """Trace of the covariance of one sample, without bias; that of `gradient` is a B-th of it.

        Raises:
            UsageError: a batch of one.
        """
        samples = self.flat
        require(len(samples) > 1, "batch of size", len(samples), "a variance takes two samples or more")
        return float(samples.var(0).sum())

    def second_moment(self) -> Tensor:
        """E‖ĝ‖² of one sample, a scalar; differentiable in the critic with `create_graph`."""
        return self.flat.square().sum(1).mean()

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate({name: samples + other.per_sample[name] for name, samples in self.per_sample.items()})

    def __rmul__(self, factor: float) -> Estimate:
        return Estimate({name: factor * samples for name, samples in self.per_sample.items()})


def estimate(policy: nn.Module, surrogate: Surrogate, batch: Batch, *data: Tensor) -> Estimate:
    """∇_θ surrogate(π_θ(·|s), data) of every sample by itself.

    Args:
        policy: observations [B, *obs_shape] to π(·|s); or a `PolicyAndValue`. In a mode without BatchNorm and Dropout.
        surrogate: what is differentiated.
        batch: its observations and its discount, if it has one, are used.
        data: what else the surrogate needs, [B, ...] each.

    Raises:
        UsageError: a policy that branches on values, or a discount of another shape than [B].
    """
    module = _Policy(policy)
    prefix = "of.policy." if isinstance(policy, PolicyAndValue) else "of."  # V is not differentiated
    learned = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
    parameters = {name: value.detach() for name, value in learned if name.startswith(prefix)}

    def of_one(parameters: dict[str, Tensor], obs: Obs, *data: Tensor) -> Tensor:
        pi = functional_call(module, parameters, (map_obs(lambda x: x.unsqueeze(0), obs),))
        return surrogate(pi, *(x.unsqueeze(0) for x in data)).squeeze(0)

    of_all = vmap(grad(of_one), in_dims=(None, *[0] * (1 + len(data))))
    try:
        per_sample = of_all(parameters, batch.obs, *data)
    except RuntimeError as error:
        if "data-dependent control flow" not in str(error):
            raise
        raise UsageError(
            f"policy {type(policy).__name__} is not allowed: it looks at values, which torch.func.vmap has none of; "
            "choose by torch.where, and make one-hot vectors by scatter instead of torch.nn.functional.one_hot"
        ) from error
    if batch.discount is not None:
        _require_one_each(batch.discount, batch, "batch.discount")
        per_sample = {name: torch.einsum("b,b...->b...", batch.discount, g) for name, g in per_sample.items()}
    return Estimate({name.removeprefix("of."): samples for name, samples in per_sample.items()})


def distribution(policy: nn.Module, batch: Batch) -> Pi:
    """π(·|s) of a batch's observations, without gradients."""
    module = _Policy(policy)
    constants = {name: value.detach() for name, value in module.named_parameters()}
    with torch.no_grad():  # which alone leaves its gradient to a view of a parameter, as `expand` makes one
        pi: Pi = functional_call(module, constants, (batch.obs,))
    return pi


def distribution_of_actions(policy: nn.Module, batch: Batch) -> Pi:
    """π(·|s) of a batch's observations, without gradients, whose samples the batch's actions can be.

    Raises:
        UsageError: actions of another shape than π's, or without a density.
    """
    pi = distribution(policy, batch)
    shape = pi.batch_shape + pi.event_shape if isinstance(pi, TorchDistribution) else pi.mode().shape
    allowed = f"the policy's are {tuple(shape)}"
    require(batch.action.shape == shape, "batch.action of shape", tuple(batch.action.shape), allowed)
    density = log_prob(pi, batch.action).detach()  # [B]
    allowed = "an action may lie on the edge, as a tanh does that is rounded to 1; give float64, or clip it"
    require(bool(density.isfinite().all()), "log π of batch.action", float(density.abs().max()), allowed)
    return pi


def advantage(batch: Batch, baseline: Baseline | None) -> Tensor:
    """Q̂(s, a) − b(s), [B], without gradients.

    Raises:
        UsageError: no signal, or a signal or baseline of another shape than [B].
    """
    require(batch.signal is not None, "batch.signal", None, "this estimator needs Q̂(s, a) of every sample, [B]")
    assert batch.signal is not None
    _require_one_each(batch.signal, batch, "batch.signal")
    if baseline is None:
        return batch.signal.detach()
    with torch.no_grad():
        b = baseline if isinstance(baseline, Tensor) else baseline(batch.obs)
    _require_one_each(b, batch, "baseline")
    return (batch.signal - b).detach()


class _Policy(nn.Module):
    """Any policy as a module of observations to π(·|s)."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.of = policy

    def forward(self, obs: Obs) -> Any:
        return self.of.distribution(obs) if isinstance(self.of, PolicyAndValue) else self.of(obs)


def _require_one_each(x: Tensor, batch: Batch, name: str) -> None:
    # [B] against [B, 1] would broadcast to [B, B] without an error
    require(x.shape == batch.action.shape[:1], f"{name} of shape", tuple(x.shape), f"give [{len(batch.action)}]")
