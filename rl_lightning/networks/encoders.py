"""Encoders: observations [B, *obs_shape] of any supported space to features [B, out_features] float32."""

from typing import Any, TypeGuard

import gymnasium as gym
import torch
from torch import Tensor, nn

from rl_lightning.errors import UsageError, one_line


class VectorEncoder(nn.Module):
    """A Box that is not an image, or a MultiBinary: as it is, flat."""

    def __init__(self, space: gym.spaces.Box | gym.spaces.MultiBinary) -> None:
        super().__init__()
        self.out_features = gym.spaces.flatdim(space)

    def forward(self, obs: Tensor) -> Tensor:  # noqa: D102
        return obs.reshape(obs.shape[0], -1).float()


class OneHotEncoder(nn.Module):
    """A Discrete: one-hot, wherever its numbers start."""

    def __init__(self, space: gym.spaces.Discrete) -> None:
        super().__init__()
        self.out_features, self.start = int(space.n), int(space.start)

    def forward(self, obs: Tensor) -> Tensor:  # noqa: D102
        index = (
            obs.long().unsqueeze(-1) - self.start
        )  # F.one_hot is not for torch.func.vmap, by which estimators run it
        return torch.zeros(*obs.shape, self.out_features, device=obs.device).scatter(-1, index, 1.0)


class NatureCNN(nn.Module):
    """The convolutions of Mnih et al. (2015): images [B, H, W, C] or [B, C, H, W] to 512 features.

    The smallest of an image's dimensions is taken for its channels, if it is the first or the last.

    Args:
        space: of the images, uint8 from 0 to 255 or real numbers.

    Raises:
        UsageError: images under 36 x 36.
    """

    out_features = 512

    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__()
        self.channels_last = space.shape[2] <= space.shape[0]
        channels, height, width = space.shape
        if self.channels_last:
            height, width, channels = space.shape
        if min(height, width) < 36:
            raise UsageError(
                f"observation space of shape {space.shape} is not supported by NatureCNN: its convolutions need "
                "images of 36 x 36 or more; enlarge them with gymnasium.wrappers.ResizeObservation"
            )
        self.scale = 1.0 / 255.0 if space.dtype.kind == "u" else 1.0
        convolutions = [
            *(nn.Conv2d(channels, 32, kernel_size=8, stride=4), nn.ReLU()),
            *(nn.Conv2d(32, 64, kernel_size=4, stride=2), nn.ReLU()),
            *(nn.Conv2d(64, 64, kernel_size=3, stride=1), nn.ReLU()),
            nn.Flatten(),
        ]
        with torch.no_grad():
            flat = nn.Sequential(*convolutions)(torch.zeros(1, channels, height, width)).shape[1]
        self.layers = nn.Sequential(*convolutions, nn.Linear(flat, self.out_features), nn.ReLU())

    def forward(self, obs: Tensor) -> Tensor:  # noqa: D102
        image = obs.float() * self.scale
        features: Tensor = self.layers(image.permute(0, 3, 1, 2) if self.channels_last else image)
        return features.float()


class DictEncoder(nn.Module):
    """A Dict: each entry by its own encoder, side by side."""

    def __init__(self, space: gym.spaces.Dict) -> None:
        super().__init__()
        self.keys = list(space.spaces)  # a ModuleDict takes some names for its own
        self.parts = nn.ModuleList([make_encoder(space[key]) for key in self.keys])
        self.out_features: int = sum(part.out_features for part in self.parts)  # type: ignore[misc]

    def forward(self, obs: dict[str, Any]) -> Tensor:  # noqa: D102
        return torch.cat([part(obs[key]) for key, part in zip(self.keys, self.parts, strict=True)], dim=-1)


Encoder = VectorEncoder | OneHotEncoder | NatureCNN | DictEncoder


def is_image(space: gym.Space[Any]) -> TypeGuard[gym.spaces.Box]:
    """Whether observations are encoded as images: a Box of three dimensions."""
    return isinstance(space, gym.spaces.Box) and len(space.shape) == 3


def make_encoder(space: gym.Space[Any]) -> Encoder:
    """The encoder for an observation space.

    Args:
        space: a Box (three dimensions are an image), Discrete, MultiBinary, or a Dict of them.

    Raises:
        UsageError: any other space.
    """
    if isinstance(space, gym.spaces.Dict):
        return DictEncoder(space)
    if isinstance(space, gym.spaces.Discrete):
        return OneHotEncoder(space)
    if is_image(space):
        return NatureCNN(space)
    if isinstance(space, gym.spaces.Box | gym.spaces.MultiBinary):
        return VectorEncoder(space)
    raise UsageError(
        f"observation space {one_line(space)} is not supported: give a Box, Discrete, MultiBinary or "
        "a Dict of them; wrap the environment with gymnasium.wrappers.FlattenObservation"
    )
