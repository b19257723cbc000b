"""Running statistics as modules: saved with the learner, frozen in evaluation, the same in every process."""

from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from rl_lightning.errors import UsageError, one_line
from rl_lightning.functional import discounted_sum
from rl_lightning.networks.encoders import is_image
from rl_lightning.types import Obs, Rollout, flat_in_time, map_obs, to_device

Gather = Callable[[Tensor], Tensor]
"""A tensor [...] of this process to those of all processes, [processes, ...]."""


Path = tuple[str, ...]  # keys from a Dict observation down to an entry; none where it is no Dict


class RunningMoments(nn.Module):
    """Mean and variance of all samples so far, element by element.

    Args:
        shape: of one sample.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("var", torch.ones(shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, samples: Tensor, gather: Gather) -> None:
        """Take in samples [B, *shape] of every process, whose B may differ (Chan et al., 1979)."""
        samples = samples.to(self.mean.dtype).view(len(samples), -1)  # [B, S]
        own = torch.cat([samples.mean(0), samples.var(0, correction=0), samples.new_tensor([len(samples)])])
        widths = [samples.shape[1], samples.shape[1], 1]
        means, variances, sizes = gather(own).split_with_sizes(widths, 1)  # [P, S], [P, S], [P, 1], in one exchange
        added = sizes.double().sum()
        share = sizes / sizes.sum()
        mean = (share * means).sum(0)  # [S]
        var = (share * (variances + (means - mean).square())).sum(0)  # within and between the processes
        mean, var = mean.view_as(self.mean), var.view_as(self.var)
        weight = (added / (self.count + added)).to(mean.dtype)  # of the new samples
        shift = mean - self.mean
        # lerp is exact at weight 1, the first time
        self.var.lerp_(var, weight).add_(weight * (1.0 - weight) * shift.square())
        self.mean.lerp_(mean, weight)
        self.count += added


class ObservationNormalizer(nn.Module):
    """(s − mean) / std of the real numbers among the observations, element by element, clipped; the rest pass.

    Real numbers are every Box of floats, of any shape, that is not an image (see `is_image`).
    Before the first update it only clips.

    Args:
        space: of the observations.
        clip: bound on the result.

    Attributes:
        moments: of each Box of real numbers.

    Raises:
        UsageError: a space that has none.
    """

    def __init__(self, space: gym.Space[Any], clip: float = 10.0) -> None:
        super().__init__()
        self.clip = clip
        boxes = _real_boxes(space)
        if not boxes:
            raise UsageError(
                f"normalize_observations=True is not allowed with observation space {one_line(space)}: "
                "only real-valued Boxes that are no images are normalized; give false"
            )
        self.paths = list(boxes)
        self.moments = nn.ModuleList([RunningMoments(box.shape) for box in boxes.values()])

    @property
    def is_new(self) -> bool:
        """Whether there are statistics to take that have not been taken yet."""
        return any(moments.count.item() == 0 for moments in self.moments)  # type: ignore[operator]

    def forward(self, obs: Obs) -> Obs:
        """Observations [..., *obs_shape], normalized with the statistics so far."""
        normalized: Obs = self._map(obs, (), self._normalized)
        return normalized

    def update(self, obs: Obs, gather: Gather) -> None:
        """Take in observations with two leading dimensions, [T, N, *obs_shape], of every process."""
        self._map(obs, (), lambda x, moments: moments.update(x.flatten(0, 1), gather))

    def _normalized(self, x: Tensor, moments: RunningMoments) -> Tensor:
        mean, var = moments.mean.float(), moments.var.float()
        return ((x - mean) * (var + 1e-8).rsqrt()).clamp(-self.clip, self.clip)

    def _map(self, obs: Obs, path: Path, function: Callable[[Tensor, RunningMoments], Any]) -> Any:
        if isinstance(obs, dict):
            return {key: self._map(value, (*path, key), function) for key, value in obs.items()}
        if path not in self.paths:
            return obs
        moments = self.moments[self.paths.index(path)]
        assert isinstance(moments, RunningMoments)
        return function(obs, moments)


class ReturnNormalizer(nn.Module):
    """r / std(R), clipped, where R_t = γ R_{t−1} + r_t is the discounted sum of an episode's rewards so far.

    So values stay near unit size whatever the scale of rewards, and their sign stays. (As in OpenAI's Baselines.)

    Args:
        gamma: the discount.
        clip: bound on the result.
    """

    def __init__(self, gamma: float, clip: float = 10.0) -> None:
        super().__init__()
        self.gamma, self.clip = gamma, clip
        self.moments = RunningMoments(())
        # R at the end of the latest rollout, [N]; of episodes under way, so no part of the weights. Nor is it a buffer:
        # DDP would give all processes the first one's
        self.carried = torch.zeros(())

    @property
    def is_new(self) -> bool:
        """Whether there are no statistics yet."""
        return self.moments.count.item() == 0

    @torch.no_grad()
    def update(self, reward: Tensor, done: Tensor, gather: Gather) -> None:
        """Take in a rollout's rewards, [T, N], and where its episodes ended, [T, N] bool, of every process."""
        first = torch.zeros_like(reward)
        first[0] = self.gamma * self.carried
        # along reversed time; an R goes on to the next step unless the episode ended here
        goes_on = torch.cat([torch.zeros_like(reward[:1]), self.gamma * (~done[:-1]).to(reward.dtype)])
        returns = discounted_sum((reward + first).flip(0), goes_on.flip(0)).flip(0)  # [T, N]
        self.carried = returns[-1] * ~done[-1]
        self.moments.update(returns.flatten(), gather)

    def forward(self, reward: Tensor) -> Tensor:
        """Rewards of any shape, scaled with the statistics so far."""
        return (reward * (self.moments.var.float() + 1e-8).rsqrt()).clamp(-self.clip, self.clip)


def observe(
    rollouts: Iterable[Rollout],
    normalizer: ObservationNormalizer | None,
    return_normalizer: ReturnNormalizer | None,
    device: torch.device,
    gather: Gather,
) -> None:
    """Let new time steps enter the statistics that there are.

    Each observation counts once: those that were acted on, and the last ones of episodes.

    Args:
        rollouts: the new time steps, [T, N, ...], on any device; left alone where there are no statistics.
        normalizer: of observations.
        return_normalizer: of rewards.
        device: of the statistics.
        gather: from every process.
    """
    if normalizer is None and return_normalizer is None:
        return
    for rollout in rollouts:
        ended = rollout.terminated | rollout.truncated  # [T, N]
        if normalizer is not None:
            last = map_obs(lambda x, ended=ended: x[ended], rollout.next_obs)  # [ended, *obs_shape]
            obs = map_obs(lambda *parts: torch.cat(parts), flat_in_time(rollout.obs), last)  # [T N + ended, ...]
            normalizer.update(map_obs(lambda x: x.unsqueeze(0), to_device(obs, device)), gather)
        if return_normalizer is not None:
            return_normalizer.update(to_device(rollout.reward.double(), device), to_device(ended, device), gather)


def _real_boxes(space: gym.Space[Any], path: Path = ()) -> dict[Path, gym.spaces.Box]:
    """The real-valued Boxes of a space that are no images, by their path in it."""
    if isinstance(space, gym.spaces.Dict):
        parts = [_real_boxes(part, (*path, key)) for key, part in space.spaces.items()]
        return {name: box for part in parts for name, box in part.items()}
    if isinstance(space, gym.spaces.Box) and space.dtype.kind == "f" and not is_image(space):
        return {path: space}
    return {}
