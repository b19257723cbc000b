"""What estimators ask of π(·|s), ours or any of torch's: densities, and a = f_θ(s, ξ) (lecture, section 3)."""

import torch
from torch import Tensor
from torch.distributions import Beta, Gamma, Independent, MultivariateNormal, Normal, TransformedDistribution
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution as TorchDistribution
from torch.linalg import solve_triangular

from rl_lightning.errors import UsageError
from rl_lightning.networks.distributions import Categorical, Distribution, Gaussian

Pi = Distribution | TorchDistribution
"""π(·|s) of a batch of observations."""

IMPLICIT = (Beta, Gamma)
"""Independent numbers without a ξ in closed form, which torch can differentiate all the same."""


def log_prob(pi: Pi, action: Tensor) -> Tensor:
    """log π(a|s), [B]; where torch gives one for each dimension, [B, A], their sum."""
    log_prob = pi.log_prob(action)
    return log_prob.flatten(1).sum(1) if log_prob.ndim > 1 else log_prob


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


def pathwise_noise(pi: Pi, action: Tensor) -> Tensor:
    """ξ for `reparameterize`: that of the action, [B, A], or of a new action where it cannot be told from the action.

    That is so for Beta and Gamma, made of independent numbers x with parameters κ. Their ξ, [B, A, 1 + K], is a sample
    of x with its K slopes ∂x/∂κ, implicit ones (arXiv:1805.08498), as torch's `rsample` has them.
    """
    base = pi
    while isinstance(base, Independent | TransformedDistribution):
        base = base.base_dist
    if not isinstance(base, IMPLICIT):
        return noise_of(pi, action)
    with torch.enable_grad():
        leaves = [kappa.detach().requires_grad_() for kappa in _parameters(base)]
        x = type(base)(leaves[0], leaves[1]).rsample()  # [B, A]
        slopes = torch.autograd.grad(x.sum(), leaves)
    return torch.stack([x.detach(), *slopes], -1)


def reparameterize(pi: Pi, noise: Tensor) -> Tensor:
    """a = f_θ(s, ξ), differentiable in θ: [B, A] to [B, A]. For a Gaussian μ_θ(s) + σ_θ(s) ξ.

    Raises:
        UsageError: neither a Gaussian (ours, Normal, MultivariateNormal), nor Beta or Gamma, nor a transformed one.
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
    if isinstance(pi, IMPLICIT):
        x, *slopes = noise.unbind(-1)
        return x + sum(slope * (kappa - kappa.detach()) for slope, kappa in zip(slopes, _parameters(pi), strict=True))
    raise _without_noise(pi)


def center(pi: Pi) -> Tensor:
    """The action of a policy whose noise is turned off, f_θ(s, 0), [B, A]; of Beta and Gamma the mean.

    Raises:
        UsageError: a distribution whose noise is not known.
    """
    base = pi
    while isinstance(base, Independent | TransformedDistribution):
        base = base.base_dist
    if isinstance(base, IMPLICIT):
        nowhere = [torch.zeros_like(base.mean)] * len(_parameters(base))
        return reparameterize(pi, torch.stack([base.mean, *nowhere], -1))
    if isinstance(base, Gaussian | Normal | MultivariateNormal):
        return reparameterize(pi, torch.zeros_like(base.mean))
    raise _without_noise(pi)


def mean_of(pi: Pi) -> Tensor:
    """E_π[a] in closed form, [B, A].

    Raises:
        UsageError: a distribution of discrete actions, or one whose mean is not known, such as a squashed Gaussian.
    """
    if isinstance(pi, Gaussian):
        return pi.mean
    try:
        if isinstance(pi, TorchDistribution) and not isinstance(pi, TorchCategorical):
            return pi.mean
    except NotImplementedError:
        pass
    raise UsageError(
        f"policy's distribution {type(pi).__name__} is not allowed: its mean E[a] is not known in closed form; give a "
        "Gaussian that is not squashed, or Beta"
    )


def mean_and_std(pi: Pi) -> tuple[Tensor, Tensor] | None:
    """μ and σ of a Gaussian with independent dimensions, [B, A] each; None of anything else."""
    if isinstance(pi, Gaussian):
        return pi.mean, pi.log_std.exp()
    if isinstance(pi, Normal):
        return pi.loc, pi.scale
    return mean_and_std(pi.base_dist) if isinstance(pi, Independent) else None


def probabilities(pi: Pi) -> Tensor | None:
    """π(·|s) of all K discrete actions, [B, K]; None where actions are anything else."""
    return pi.logits.softmax(-1) if isinstance(pi, Categorical | TorchCategorical) else None


def _parameters(pi: Beta | Gamma) -> list[Tensor]:
    """In the order of the constructor's arguments, [B, A] each."""
    return [pi.concentration1, pi.concentration0] if isinstance(pi, Beta) else [pi.concentration, pi.rate]


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
