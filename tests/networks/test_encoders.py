import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from rl_lightning import UsageError
from rl_lightning.networks.encoders import make_encoder

VECTOR = Box(-np.inf, np.inf, (3,), np.float32)
HWC, CHW = Box(0, 255, (36, 40, 3), np.uint8), Box(0, 255, (3, 36, 40), np.uint8)


def images(batch=2, shape=(36, 40, 3)):
    return torch.randint(0, 256, (batch, *shape), dtype=torch.uint8)


def test_a_vector_is_its_own_features_as_float32():
    encoder = make_encoder(VECTOR)
    obs = torch.randn(4, 3)
    assert torch.equal(encoder(obs), obs)
    assert encoder.out_features == 3
    assert encoder(torch.tensor([[1, 2, 3]])).dtype == torch.float32


@pytest.mark.parametrize("shape", [(2, 4), (2, 2, 2, 2)])
def test_a_box_of_two_or_four_dimensions_is_flattened(shape):
    encoder = make_encoder(Box(-1, 1, shape, np.float32))
    obs = torch.randn(5, *shape)
    assert torch.equal(encoder(obs), obs.flatten(1))
    assert encoder.out_features == np.prod(shape)


def test_a_box_that_is_one_number_is_one_feature():
    encoder = make_encoder(Box(-1, 1, (), np.float32))
    assert encoder(torch.tensor([0.5, -1.0])).tolist() == [[0.5], [-1.0]]
    assert encoder.out_features == 1


@pytest.mark.parametrize(("n", "features"), [(4, 4), ((2, 3), 6)])
def test_switches_are_zeros_and_ones(n, features):
    encoder = make_encoder(MultiBinary(n))
    obs = torch.from_numpy(np.stack([MultiBinary(n, seed=seed).sample() for seed in range(5)]))
    assert encoder(obs).dtype == torch.float32
    assert torch.equal(encoder(obs), obs.flatten(1).float())
    assert encoder.out_features == features


@pytest.mark.parametrize("start", [0, 5, -2])
def test_a_discrete_observation_is_one_hot_wherever_it_starts(start):
    encoder = make_encoder(Discrete(3, start=start))
    assert encoder(torch.tensor([start, start + 2, start + 1])).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert encoder.out_features == 3


def test_images_have_the_same_features_with_channels_last_and_channels_first():
    last, first = make_encoder(HWC), make_encoder(CHW)
    first.load_state_dict(last.state_dict())
    obs = images()
    features = last(obs)
    assert features.shape == (2, last.out_features) == (2, 512)
    assert (features[0] != features[1]).any()
    torch.testing.assert_close(first(obs.permute(0, 3, 1, 2)), features)
    with pytest.raises(RuntimeError, match="channels"):
        first(obs)


def test_bytes_are_scaled_by_255_and_real_images_are_not():
    of_bytes = make_encoder(HWC)
    of_reals = make_encoder(Box(0, 1, (36, 40, 3), np.float32))
    of_reals.load_state_dict(of_bytes.state_dict())
    obs = images()
    torch.testing.assert_close(of_bytes(obs), of_reals(obs.float() / 255), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(of_reals(obs.float()), of_bytes(obs), rtol=0.5)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_single_channel_and_four_stacked_frames_are_images(channels):
    for shape in ((36, 36, channels), (channels, 36, 36)):
        encoder = make_encoder(Box(0, 255, shape, np.uint8))
        assert encoder.layers[0].in_channels == channels
        assert encoder(images(1, shape)).shape == (1, 512)


@pytest.mark.parametrize("shape", [(35, 36, 3), (36, 35, 3), (3, 36, 35), (8, 8, 3), (1, 10, 10)])
def test_images_too_small_for_the_convolutions_are_refused(shape):
    with pytest.raises(UsageError, match=r"shape \(.*\) is not supported by NatureCNN: .*36 x 36.*Resize") as caught:
        make_encoder(Box(0, 255, shape, np.uint8))
    assert str(shape) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_entries_of_a_dict_are_encoded_each_by_its_own_encoder_and_put_side_by_side():
    space = Dict(
        {"vector": VECTOR, "image": HWC, "inner": Dict({"choice": Discrete(4, start=1), "on": MultiBinary(2)})}
    )
    encoder = make_encoder(space)
    obs = {
        "vector": torch.randn(2, 3),
        "image": images(),
        "inner": {"choice": torch.tensor([4, 1]), "on": torch.tensor([[0, 1], [1, 1]], dtype=torch.int8)},
    }
    features = encoder(obs)
    assert features.shape == (2, encoder.out_features) == (2, 3 + 512 + 4 + 2)
    parts = {
        "vector": obs["vector"],
        "image": encoder.parts[encoder.keys.index("image")](obs["image"]),
        "inner": torch.tensor([[0, 0, 0, 1, 0, 1], [1, 0, 0, 0, 1, 1]]).float(),
    }
    assert torch.equal(features, torch.cat([parts[key] for key in space.spaces], -1))


@pytest.mark.parametrize(
    "space",
    [Tuple((VECTOR, VECTOR)), Text(5), MultiDiscrete([2, 3]), Dict({"a": VECTOR, "b": Text(3)})],
    ids=["Tuple", "Text", "MultiDiscrete", "Dict of Text"],
)
def test_an_observation_space_without_an_encoder_is_refused(space):
    with pytest.raises(UsageError, match=r"^observation space .* is not supported: .*Flatten") as caught:
        make_encoder(space)
    assert "\n" not in str(caught.value)
