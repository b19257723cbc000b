"""Action distributions π(·|s), each a few tensors with a batch dimension: sample, mode, density, entropy, divergence.

`torch.distributions` would do, but building one costs more than the small networks of most tasks, at every step.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from rl_lightning.functional import LOG_SQRT_2PI, gaussian_log_prob


class Distribution(Protocol):
    """What learners ask of π(·|s)."""

    def sample(self, generator: Generator | None = None) -> Tensor:
        """a ~ π(·|s): [B, *action_shape], without gradients; by default with torch's own generator."""

    def mode(self) -> Tensor:
        """The most likely action, [B, *action_shape]."""

    def log_prob(self, action: Tensor) -> Tensor:
        """log π(a|s): [B, *action_shape] to [B]."""

    def entropy(self) -> Tensor:
        """−E[log π(a|s)], [B]."""

    def kl(self, other: Self) -> Tensor:
        """KL(self ‖ other), [B]."""

    def detach(self) -> Self:
        """The same without gradients."""


class Categorical(NamedTuple):
    """One of K actions. Actions are [B] int64."""

    logits: Tensor  # [B, K]

    def sample(self, generator: Generator | None = None) -> Tensor:  # noqa: D102
        # the largest of logits plus Gumbel noise (−log of an exponential) is a sample of the softmax
        exponential = torch.empty_like(self.logits).exponential_(generator=generator)
        return (self.logits.detach() - exponential.log()).argmax(-1)  # [B]

    def mode(self) -> Tensor:  # noqa: D102
        return self.logits.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:  # noqa: D102
        return self.logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:  # noqa: D102
        log_prob = self.logits.log_softmax(-1)
        return -(log_prob.exp() * log_prob).sum(-1)

    def kl(self, other: Categorical) -> Tensor:  # noqa: D102
        log_prob = self.logits.log_softmax(-1)
        return (log_prob.exp() * (log_prob - other.logits.log_softmax(-1))).sum(-1)

    def detach(self) -> Categorical:  # noqa: D102
        return Categorical(self.logits.detach())


class MultiCategorical(NamedTuple):
    """Several independent choices. Actions are [B, D] int64."""

    parts: tuple[Categorical, ...]

    def sample(self, generator: Generator | None = None) -> Tensor:  # noqa: D102
        return torch.stack([part.sample(generator) for part in self.parts], -1)

    def mode(self) -> Tensor:  # noqa: D102
        return torch.stack([part.mode() for part in self.parts], -1)

    def log_prob(self, action: Tensor) -> Tensor:  # noqa: D102
        return _total([part.log_prob(a) for part, a in zip(self.parts, action.unbind(-1), strict=True)])

    def entropy(self) -> Tensor:  # noqa: D102
        return _total([part.entropy() for part in self.parts])

    def kl(self, other: MultiCategorical) -> Tensor:  # noqa: D102
        return _total([part.kl(o) for part, o in zip(self.parts, other.parts, strict=True)])

    def detach(self) -> MultiCategorical:  # noqa: D102
        return MultiCategorical(tuple(part.detach() for part in self.parts))


class Bernoulli(NamedTuple):
    """Independent switches. Actions are [B, D] int64, 0 or 1."""

    logits: Tensor  # [B, D], of being 1

    def sample(self, generator: Generator | None = None) -> Tensor:  # noqa: D102
        return torch.bernoulli(self.logits.detach().sigmoid(), generator=generator).long()

    def mode(self) -> Tensor:  # noqa: D102
        return (self.logits > 0).long()

    def log_prob(self, action: Tensor) -> Tensor:  # noqa: D102
        return -F.binary_cross_entropy_with_logits(self.logits, action.to(self.logits.dtype), reduction="none").sum(-1)

    def entropy(self) -> Tensor:  # noqa: D102
        # E[log π] of a switch that is on with probability p: p log p + (1 − p) log (1 − p)
        on, off = F.logsigmoid(self.logits), F.logsigmoid(-self.logits)
        return -(on.exp() * on + off.exp() * off).sum(-1)

    def kl(self, other: Bernoulli) -> Tensor:  # noqa: D102
        on, off = F.logsigmoid(self.logits), F.logsigmoid(-self.logits)
        other_on, other_off = F.logsigmoid(other.logits), F.logsigmoid(-other.logits)
        return (on.exp() * (on - other_on) + off.exp() * (off - other_off)).sum(-1)

    def detach(self) -> Bernoulli:  # noqa: D102
        return Bernoulli(self.logits.detach())


class Gaussian(NamedTuple):
    """Independent normals. Actions are [B, A] float32 and unbounded: environments clip them to their space."""

    mean: Tensor  # [B, A]
    log_std: Tensor  # [B, A]

    def sample(self, generator: Generator | None = None) -> Tensor:  # noqa: D102
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return (self.mean + self.log_std.exp() * noise).detach()

    def mode(self) -> Tensor:  # noqa: D102
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:  # noqa: D102
        return gaussian_log_prob(action, self.mean, self.log_std)

    def entropy(self) -> Tensor:  # noqa: D102
        return (self.log_std + LOG_SQRT_2PI + 0.5).sum(-1)

    def kl(self, other: Gaussian) -> Tensor:  # noqa: D102
        ratio = (2.0 * (self.log_std - other.log_std)).exp()  # σ² / σ'²
        distance = ((self.mean - other.mean) * (-other.log_std).exp()).square()
        return 0.5 * (ratio + distance - 1.0 - ratio.log()).sum(-1)

    def detach(self) -> Gaussian:  # noqa: D102
        return Gaussian(self.mean.detach(), self.log_std.detach())


def _total(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).sum(0)
