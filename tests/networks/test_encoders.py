from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from rl_lightning import DQN, MLP, PPO, UsageError
from rl_lightning.networks import WithEncoders
from rl_lightning.networks.encoders import make_encoder
from rl_lightning.spaces import to_tensor
from rl_lightning.types import map_obs

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


@pytest.mark.parametrize("shape", [(4, 84, 84), (84, 84, 4), (3, 9, 9), (7, 7, 3)])
def test_channels_lie_side_by_side_for_convolutions_and_features_depend_on_no_layout(shape):
    encoder = make_encoder(Box(0, 255, shape, np.uint8))
    seen = []
    encoder.layers[0].register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    features = encoder(torch.randint(256, (5, *shape), dtype=torch.uint8))
    [images] = seen
    channels = min(shape)
    assert images.shape[1] == channels
    assert images.stride() == (images[0].numel(), 1, channels * images.shape[3], channels)
    torch.testing.assert_close(encoder.layers(images.contiguous()), features)


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


@pytest.mark.parametrize(
    ("shape", "kernels"),
    [
        ((36, 36, 3), [8, 4, 3]),
        *(((35, 36, 3), [3, 3, 3]), ((36, 35, 3), [3, 3, 3]), ((3, 36, 35), [3, 3, 3]), ((7, 7, 3), [3, 3, 3])),
        *(((1, 10, 10), [3, 3, 3]), ((1, 1, 1), [3, 3, 3])),
    ],
)
def test_images_too_small_for_the_convolutions_of_atari_get_smaller_ones(shape, kernels):
    encoder = make_encoder(Box(0, 255, shape, np.uint8))
    assert [layer.kernel_size[0] for layer in encoder.layers if isinstance(layer, torch.nn.Conv2d)] == kernels
    assert encoder(images(2, shape)).shape == (2, encoder.out_features) == (2, 512)


def test_every_entry_of_a_small_image_reaches_the_features():
    encoder = make_encoder(Box(0, 255, (7, 7, 3), np.uint8))
    obs = torch.randint(1, 11, (1, 7, 7, 3)).float().requires_grad_()
    encoder(obs).sum().backward()
    assert (obs.grad != 0).all()


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((8, 8, 20), 20), ((20, 8, 8), 20), ((5, 5, 5), 5), ((9, 7, 3), 3), ((3, 9, 7), 3), ((84, 84, 4), 4)],
)
def test_the_dimension_beside_two_equal_ones_is_that_of_the_channels(shape, channels):
    assert make_encoder(Box(0, 1, shape, np.float32)).layers[0].in_channels == channels


@pytest.mark.parametrize(
    ("space", "obs", "features"),
    [
        (MultiDiscrete([2, 3]), [[1, 0], [0, 2]], [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
        (MultiDiscrete([2, 3], start=[5, -1]), [[6, -1], [5, 1]], [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
        (MultiDiscrete([2, 3], np.uint8, start=[5, 1]), [[6, 1], [5, 3]], [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
        (MultiDiscrete([[2, 1], [1, 2]]), [[[1, 0], [0, 1]]], [[0, 1, 1, 1, 0, 1]]),
    ],
)
def test_choices_are_one_hot_each_in_their_order(space, obs, features):
    encoder = make_encoder(space)
    assert encoder(torch.tensor(obs)).tolist() == features
    assert encoder.out_features == len(features[0])
    assert not encoder.state_dict(), "what the space says is no weight"
    with torch.device("meta"):  # where an exported policy is made
        assert make_encoder(space)(torch.tensor(obs, device="cpu")).tolist() == features


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
    ("space", "message"),
    [
        (Tuple((VECTOR, VECTOR)), r"obs is Tuple\(.*; give the spaces of rl_lightning.make_env"),
        (Text(5), r"obs is Text\(.*; make numbers of it in a wrapper \(data.wrappers\)"),
        (
            Dict({"a": VECTOR, "b": Text(3), "c": Dict({"d": VECTOR})}),
            r"obs.b is Text\(.*FilterObservation, init_args: \{filter_keys: \[a, c\]\}\}\]$",
        ),
        (Dict({"c": Dict({"d": Text(3)})}), r"obs.c.d is Text\(.*; make numbers of it in a wrapper"),
    ],
    ids=["Tuple", "Text", "Dict of Text", "nothing left"],
)
def test_an_observation_space_without_an_encoder_is_refused_with_what_to_do(space, message):
    with pytest.raises(UsageError, match=rf"^observation space is not supported: {message}") as caught:
        make_encoder(space)
    assert "\n" not in str(caught.value)


def test_two_entries_of_one_name_are_refused_since_replay_would_keep_one_of_them_for_both():
    space = Dict({"a": Dict({"b": VECTOR}), "a.b": VECTOR})
    with pytest.raises(UsageError, match=r"observations=\['obs.a.b'\] is not allowed: .* rename that in a wrapper"):
        make_encoder(space)


# The user's own


class Table(torch.nn.Module):
    """A vector of its own for each number."""

    def __init__(self, space, width=3, says=None):
        super().__init__()
        self.out_features = width if says is None else says
        self.table = torch.nn.Embedding(256, width)

    def forward(self, obs):
        return self.table(obs.reshape(len(obs), -1).long()).sum(1)


GRID = Dict({"image": Box(0, 10, (7, 7, 3), np.uint8), "inner": Dict({"choice": Discrete(4), "on": MultiBinary(2)})})


@pytest.mark.parametrize(
    ("name", "features"), [("obs.image", 3 + 4 + 2), ("obs.inner.choice", 512 + 3 + 2), ("obs.inner", 512 + 5)]
)
def test_each_encoder_can_be_replaced_by_ones_own(name, features):
    def two(space):
        assert space == GRID["inner"]
        own = torch.nn.Flatten()
        own.out_features, own.forward = 5, lambda obs: torch.ones(len(obs["choice"]), 5)
        return own

    encoder = make_encoder(GRID, partial(WithEncoders, encoders={name: two if name == "obs.inner" else Table}))
    obs = to_tensor(batch_of(GRID, 6), GRID)
    assert encoder.out_features == features
    assert encoder(obs).shape == (6, features)
    if name == "obs.image":
        table = encoder.parts[encoder.keys.index("image")].encoder
        assert torch.equal(encoder(obs)[:, :3], table(obs["image"]))


def batch_of(space, count):
    rows = [space.sample() for _ in range(count)]
    return map_obs(lambda *parts: np.stack(parts), *rows)


def test_the_whole_of_a_space_that_is_no_dict_can_have_an_encoder_of_ones_own_too():
    encoder = make_encoder(Discrete(4, start=2), partial(WithEncoders, encoders={"obs": Table}))
    assert encoder(torch.tensor([2, 5])).shape == (2, 3)


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        ({"obs.imag": Table}, r"encoders=\['obs.imag'\] .*observations are obs.image, obs.inner.choice, obs.inner.on"),
        ({"obs.image": lambda space: torch.nn.Flatten()}, "out_features of encoders.obs.image=None .*of Flatten"),
        ({"obs.image": partial(Table, says=4)}, r"encoders.obs.image gives=\[2, 3\] .* \[2, 4\]"),
    ],
)
def test_an_encoder_of_ones_own_that_cannot_work_is_refused_before_a_run(encoders, message):
    with pytest.raises(UsageError, match=message) as caught:
        make_encoder(GRID, partial(WithEncoders, encoders=encoders))
    assert "\n" not in str(caught.value)


def test_the_body_behind_encoders_of_ones_own_is_the_one_that_is_given():
    network = partial(WithEncoders, encoders={"obs.image": Table}, network=partial(MLP, hidden_sizes=(4,)))
    learner = PPO(GRID, Discrete(3), network=network, compile=False)
    learner_q = DQN(GRID, Discrete(3), network=network, compile=False)
    for encoder in (learner.networks.policy[0], learner.networks.value[0], learner_q.q.encoder):
        assert [type(part).__name__ for part in encoder.parts] == ["UsersEncoder", "DictEncoder"]
    assert learner_q.q.body.body[0].in_features == 3 + 4 + 2
    assert learner_q.q.body.body[0].out_features == 4
    assert "Table is no encoder that is known by name" in learner.policy_description()["network"]["undescribed"]
