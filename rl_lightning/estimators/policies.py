"""What estimators ask of π(·|s), ours or any of torch's: densities, and a = f_θ(s, ξ) (lecture, section 3)."""

from torch import Tensor
from torch.distributions import Distribution as TorchDistribution
from torch.distributions import Independent, MultivariateNormal, Normal, TransformedDistribution
from torch.linalg import solve_triangular

from rl_lightning.errors import UsageError
from rl_lightning.networks.distributions import Distribution, Gaussian

Pi = Distribution | TorchDistribution
"""π(·|s) of a batch of observations."""


def log_prob_per_dim(pi: Pi, action: Tensor) -> Tensor:
    """log π_i(a_i|s) of every dimension, where they are independent: [B, A] to [B, A].

    Raises:
        UsageError: dimensions that are not independent, or not known to be.
    """
    return _per_dim(pi).log_prob(action)


def noise_of(pi: Pi, action: Tensor) -> Tensor:
    """ξ with a = f_θ(s, ξ), the inverse of `reparameterize`: [B, A] to [B, A].

    Raises:
        UsageError: neither a Gaussian (ours, Normal, MultivariateNormal) nor a transformed one.
    """
    if isinstance(pi, Gaussian):
        return (action - pi.mean) * (-pi.log_std).exp()
    if isinstance(pi, Normal):
        return (action - pi.loc) / pi.scale
    if isinstance(pi, MultivariateNormal):
        deviation = (action - pi.loc).unsqueeze(-1)  # [B, A, 1]
        noise: Tensor = solve_triangular(pi.scale_tril, deviation, upper=False)
        return noise.squeeze(-1)
    if isinstance(pi, Independent):
        return noise_of(pi.base_dist, action)
    if isinstance(pi, TransformedDistribution):
        for transform in reversed(pi.transforms):
            action = transform.inv(action)
        return noise_of(pi.base_dist, action)
    raise _without_noise(pi)


def reparameterize(pi: Pi, noise: Tensor) -> Tensor:
    """a = f_θ(s, ξ), differentiable in θ: [B, A] to [B, A]. For a Gaussian μ_θ(s) + σ_θ(s) ξ.

    Raises:
        UsageError: neither a Gaussian (ours, Normal, MultivariateNormal) nor a transformed one.
    """
    if isinstance(pi, Gaussian):
        return pi.mean + pi.log_std.exp() * noise
    if isinstance(pi, Normal):
        return pi.loc + pi.scale * noise
    if isinstance(pi, MultivariateNormal):
        return pi.loc + (pi.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
    if isinstance(pi, Independent):
        return reparameterize(pi.base_dist, noise)
    if isinstance(pi, TransformedDistribution):
        action = reparameterize(pi.base_dist, noise)
        for transform in pi.transforms:
            action = transform(action)
        return action
    raise _without_noise(pi)


def _per_dim(pi: Pi) -> TorchDistribution:
    """The same with a density for each dimension of the action."""
    if isinstance(pi, Gaussian):
        return Normal(pi.mean, pi.log_std.exp(), validate_args=False)
    if isinstance(pi, Independent):
        return _per_dim(pi.base_dist)
    if isinstance(pi, TransformedDistribution) and all(part.domain.event_dim == 0 for part in pi.transforms):
        return TransformedDistribution(_per_dim(pi.base_dist), pi.transforms, validate_args=False)
    if isinstance(pi, TorchDistribution) and not pi.event_shape and len(pi.batch_shape) == 2:
        return pi
    raise UsageError(
        f"policy's distribution {type(pi).__name__} is not allowed: its dimensions [B, A] must be independent; give a "
        "Gaussian, or torch's Independent"
    )


def _without_noise(pi: Pi) -> UsageError:
    return UsageError(
        f"policy's distribution {type(pi).__name__} is not allowed: no ξ with a = f_θ(s, ξ) is known; give a Gaussian, "
        "torch's Normal or MultivariateNormal, or a transformed one"
    )
