"""Encoders: observations [B, *obs_shape] of any supported space to features [B, out_features] float32."""

from collections.abc import Mapping
from typing import Any, TypeGuard

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from rl_lightning.errors import UsageError, one_line, require
from rl_lightning.networks.mlp import EncoderCallable, NetworkCallable, encoders_of
from rl_lightning.spaces import has_numbers, leaves_of, to_tensor, zeros_of
from rl_lightning.types import Obs, map_obs

NATURE = ((32, 8, 4, 0), (64, 4, 2, 0), (64, 3, 1, 0))  # of Mnih et al. (2015): channels, kernel, stride, padding
SMALL = ((32, 3, 1, 1), (64, 3, 2, 1), (64, 3, 2, 1))  # where those do not fit in: every entry counts, as on a grid
LEAST_OF_NATURE = 36  # entries of the height and width that they need


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


class ChoicesEncoder(nn.Module):
    """A MultiDiscrete of any shape: each of its choices one-hot, wherever it starts, side by side in their order."""

    places: Tensor

    def __init__(self, space: gym.spaces.MultiDiscrete) -> None:
        super().__init__()
        counts, start = (each.flatten().astype(np.int64) for each in (space.nvec, space.start))  # or unsigned ones wrap
        self.out_features = int(counts.sum())
        # where the one of each choice's zero lies; the space says it, so it is no weight, and has numbers on any device
        places = torch.tensor((np.cumsum(counts) - counts - start).tolist(), device="cpu")
        self.register_buffer("places", places, persistent=False)

    def forward(self, obs: Tensor) -> Tensor:  # noqa: D102
        index = obs.reshape(obs.shape[0], -1).long() + self.places
        return torch.zeros(obs.shape[0], self.out_features, device=obs.device).scatter(-1, index, 1.0)


class ImageEncoder(nn.Module):
    """Convolutions: images [B, H, W, C] or [B, C, H, W] to 512 features.

    From 36 x 36 on they are those of Mnih et al. (2015); smaller images get three of 3 x 3, the last two with stride 2.
    Where the first two dimensions are equal and the last two are not, the last is taken for the channels, and the other
    way round; else the smallest of the first and the last.

    Args:
        space: of the images, uint8 from 0 to 255 or real numbers.
    """

    out_features = 512

    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__()
        first, middle, last = space.shape
        is_square = (first == middle, middle == last)
        self.channels_last = is_square[0] if is_square[0] != is_square[1] else last <= first
        height, width, channels = (first, middle, last) if self.channels_last else (middle, last, first)
        self.scale = 1.0 / 255.0 if space.dtype.kind == "u" else 1.0
        layers: list[nn.Module] = []
        inputs = channels
        for outputs, kernel, stride, padding in NATURE if min(height, width) >= LEAST_OF_NATURE else SMALL:
            layers += [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU()]
            inputs = outputs
        layers.append(nn.Flatten())
        with torch.no_grad():
            flat = nn.Sequential(*layers)(torch.zeros(1, channels, height, width)).shape[1]
        self.layers = nn.Sequential(*layers, nn.Linear(flat, self.out_features), nn.ReLU())

    def forward(self, obs: Tensor) -> Tensor:  # noqa: D102
        image = (obs if self.channels_last else obs.permute(0, 2, 3, 1)).contiguous()  # [B, H, W, C]
        # [B, C, H, W] with an entry's channels side by side in memory: oneDNN differentiates those faster
        features: Tensor = self.layers((image.float() * self.scale).permute(0, 3, 1, 2))
        return features.float()


class UsersEncoder(nn.Module):
    """An encoder of the user's own.

    Args:
        name: of the observations that it is for.
        space: of them.
        make: makes it.

    Raises:
        UsageError: an encoder without `out_features`, or one that gives other features for two observations.
    """

    def __init__(self, name: str, space: gym.Space[Any], make: EncoderCallable) -> None:
        super().__init__()
        self.name, self.encoder = name, make(space)
        out_features: Any = getattr(self.encoder, "out_features", None)
        advice = f"set self.out_features of {type(self.encoder).__name__} to the number of its features"
        require(isinstance(out_features, int), f"out_features of encoders.{name}", out_features, advice)
        self.out_features: int = out_features
        shown = to_tensor(map_obs(lambda obs: np.stack([obs, obs]), zeros_of(space)), space)
        was_training = self.encoder.training
        with torch.no_grad():
            features = self.encoder.eval()(shown)
        self.encoder.train(was_training)
        needed = f"from 2 observations it must give [2, out_features] = {[2, self.out_features]}"
        shape = [*features.shape]
        require(shape == [2, self.out_features], f"shape of what encoders.{name} gives", shape, needed)

    def forward(self, obs: Obs) -> Tensor:  # noqa: D102
        features: Tensor = self.encoder(obs)
        return features.float()


class DictEncoder(nn.Module):
    """A Dict: each entry by its own encoder, side by side in the order of the space.

    Args:
        space: of the observations.
        encoders: the user's own, by the names of what they are for.
        name: of these observations.
    """

    def __init__(
        self, space: gym.spaces.Dict, encoders: Mapping[str, EncoderCallable] | None = None, name: str = "obs"
    ) -> None:
        super().__init__()
        self.keys = list(space.spaces)  # a ModuleDict takes some names for its own
        self.parts = nn.ModuleList([_encoder(space[key], encoders or {}, f"{name}.{key}") for key in self.keys])
        self.out_features: int = sum(part.out_features for part in self.parts)  # type: ignore[misc]

    def forward(self, obs: dict[str, Any]) -> Tensor:  # noqa: D102
        return torch.cat([part(obs[key]) for key, part in zip(self.keys, self.parts, strict=True)], dim=-1)


Encoder = VectorEncoder | OneHotEncoder | ChoicesEncoder | ImageEncoder | DictEncoder | UsersEncoder


def is_image(space: gym.Space[Any]) -> TypeGuard[gym.spaces.Box]:
    """Whether observations are encoded as images: a Box of three dimensions."""
    return isinstance(space, gym.spaces.Box) and len(space.shape) == 3


def make_encoder(space: gym.Space[Any], network: NetworkCallable | None = None) -> Encoder:
    """The encoder for an observation space.

    Args:
        space: a Box (three dimensions are an image), Discrete, MultiDiscrete, MultiBinary, or a Dict of them, nested or
            not. (`rl_lightning.make_env` makes Dicts of Tuples.)
        network: the body behind it, which may have encoders of the user's own bound to it: see
            `rl_lightning.networks.WithEncoders`.

    Raises:
        UsageError: any other space; an encoder for observations that there are not, or that does not do what it says.
    """
    leaves = leaves_of(space)
    if without := {name: leaf for name, leaf in leaves.items() if not has_numbers(leaf)}:
        raise UsageError(_not_supported(space, without))
    encoders = encoders_of(network)
    unknown = [name for name in encoders if not any(f"{leaf}.".startswith(f"{name}.") for leaf in leaves)]
    require(not unknown, "encoders", unknown, f"the observations are {', '.join(leaves)}")
    return _encoder(space, encoders, "obs")


def _encoder(space: gym.Space[Any], encoders: Mapping[str, EncoderCallable], name: str) -> Encoder:
    if name in encoders:
        return UsersEncoder(name, space, encoders[name])
    match space:
        case gym.spaces.Dict():
            return DictEncoder(space, encoders, name)
        case gym.spaces.Discrete():
            return OneHotEncoder(space)
        case gym.spaces.MultiDiscrete():
            return ChoicesEncoder(space)
        case gym.spaces.Box() if is_image(space):
            return ImageEncoder(space)
    assert isinstance(space, gym.spaces.Box | gym.spaces.MultiBinary)
    return VectorEncoder(space)


def _not_supported(space: gym.Space[Any], without: Mapping[str, gym.Space[Any]]) -> str:
    """For a space with parts that hold no numbers, or hold them in no fixed shape."""
    shown = "; ".join(f"{name} is {one_line(leaf)}" for name, leaf in without.items())
    if any(isinstance(leaf, gym.spaces.Tuple) for leaf in without.values()):
        fix = "give the spaces of rl_lightning.make_env or of the DataModule, which have Dicts in place of Tuples"
    elif isinstance(space, gym.spaces.Dict):
        kept = [key for key in space.spaces if not any(f"{name}.".startswith(f"obs.{key}.") for name in without)]
        wrapper = (
            f"{{class_path: gymnasium.wrappers.FilterObservation, init_args: {{filter_keys: [{', '.join(kept)}]}}}}"
        )
        fix = (
            f"leave it out with data.wrappers=[{wrapper}]"
            if kept
            else "make numbers of it in a wrapper (data.wrappers)"
        )
    else:
        fix = "make numbers of it in a wrapper (data.wrappers)"
    return f"observation space is not supported: {shown}, which has no encoder; {fix}"
