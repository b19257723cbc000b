import warnings
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from torch import nn
from toys import LINEAR, TINY, counter_data, fit, tiny_sac

from rl_lightning import PPO, UsageError
from rl_lightning.functional import squashed_gaussian_log_prob
from rl_lightning.networks import MLP, SquashedGaussianPolicy, TwinQ, ValueNetwork
from rl_lightning.networks.distributions import Bernoulli, Categorical, Gaussian, MultiCategorical
from rl_lightning.networks.encoders import NatureCNN, make_encoder
from rl_lightning.networks.policy_and_value import CategoricalHead, GaussianHead, PolicyAndValue

VECTOR = Box(-np.inf, np.inf, (3,), np.float32)
HWC, CHW = Box(0, 255, (36, 40, 3), np.uint8), Box(0, 255, (3, 36, 40), np.uint8)
LONG = Box(np.arange(60, dtype=np.float32), np.arange(60, dtype=np.float32) + 1.5)  # takes several lines to print


def test_an_mlp_has_an_activation_after_every_layer_but_the_last():
    kinds = [type(layer) for layer in MLP(3, 2, hidden_sizes=(5, 4), activation="tanh")]
    assert kinds == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    shapes = [tuple(p.shape) for p in MLP(3, 2, hidden_sizes=(5, 4)).parameters()]
    assert shapes == [(5, 3), (5,), (4, 5), (4,), (2, 4), (2,)]
    assert [type(layer) for layer in MLP(3, 2, hidden_sizes=())] == [nn.Linear]


def test_values_are_vectors_and_not_columns():
    obs, action = torch.randn(7, 3), torch.randn(7, 2)
    assert ValueNetwork(VECTOR, TINY, "Learner")(obs).shape == (7,)
    assert [q.shape for q in TwinQ(VECTOR, 2, TINY, "Learner")(obs, action)] == [(7,), (7,)]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float64, torch.float16])
def test_values_of_any_dtype_of_observation_are_float32(dtype):
    obs = torch.arange(6).view(2, 3).to(dtype)
    network = ValueNetwork(VECTOR, LINEAR, "Learner")
    assert network(obs).dtype == torch.float32
    assert torch.equal(network(obs), network(obs.float()))


def test_a_q_network_sees_observation_and_action():
    twin, obs, action = TwinQ(VECTOR, 2, LINEAR, "Learner"), torch.randn(1, 3), torch.randn(1, 2)
    for network in (twin.q1, twin.q2):
        weight, bias = network.body[0].weight[0], network.body[0].bias
        assert network(obs, action).item() == pytest.approx(
            (obs[0] @ weight[:3] + action[0] @ weight[3:] + bias).item(), abs=1e-6
        )


def test_the_twins_are_independent():
    twin = TwinQ(VECTOR, 2, TINY, "Learner")
    q1, q2 = twin(torch.randn(5, 3), torch.randn(5, 2))
    assert not (q1 == q2).any()
    assert not any(torch.autograd.grad(q1.sum(), list(twin.q2.parameters()), allow_unused=True))


@pytest.mark.parametrize(("bias", "expected"), [(100.0, 2.0), (-100.0, -20.0), (0.5, 0.5)])
def test_the_log_standard_deviation_is_bounded(bias, expected):
    policy = SquashedGaussianPolicy(VECTOR, 2, LINEAR, "Learner")
    nn.init.zeros_(policy.body[0].weight)
    nn.init.constant_(policy.body[0].bias, bias)
    mean, log_std = policy(torch.randn(4, 3))
    assert torch.equal(log_std, torch.full((4, 2), expected))
    assert torch.equal(mean, torch.full((4, 2), bias))
    action, log_prob, u = policy.sample(torch.randn(4, 3))
    assert (action.abs() <= 1).all()
    assert log_prob.isfinite().all()
    assert u.isfinite().all()


def test_a_sample_carries_its_own_log_prob_and_pre_tanh_value():
    policy, obs = SquashedGaussianPolicy(VECTOR, 2, TINY, "Learner"), torch.randn(6, 3)
    action, log_prob, u = policy.sample(obs)
    mean, log_std = policy(obs)
    assert torch.equal(action, u.tanh())
    expected = squashed_gaussian_log_prob(u.double(), mean.double(), log_std.double()).float()
    torch.testing.assert_close(log_prob, expected)
    torch.testing.assert_close(policy.log_prob(obs, u), log_prob)
    assert action.shape == u.shape == (6, 2)
    assert log_prob.shape == (6,)


def test_the_policys_mean_and_standard_deviation_are_apart():
    policy, obs = SquashedGaussianPolicy(Box(-1, 1, (1,), np.float32), 2, LINEAR, "Learner"), torch.ones(50_000, 1)
    with torch.no_grad():
        policy.body[0].weight.zero_()
        policy.body[0].bias.copy_(torch.tensor([1.0, -2.0, -1.0, 0.5]))
        _, _, u = policy.sample(obs)
    expected = torch.tensor([-1.0, 0.5]).exp()
    assert ((u.mean(0) - torch.tensor([1.0, -2.0])).abs() < 5 * expected / 50_000**0.5).all()
    torch.testing.assert_close(u.std(0), expected, rtol=0.02, atol=0.0)


def images(batch=2, shape=(36, 40, 3)):
    return torch.randint(0, 256, (batch, *shape), dtype=torch.uint8)


def test_a_vector_is_its_own_features_as_float32():
    encoder = make_encoder(VECTOR, "Learner")
    obs = torch.randn(4, 3)
    assert torch.equal(encoder(obs), obs)
    assert encoder.out_features == 3
    assert encoder(torch.tensor([[1, 2, 3]])).dtype == torch.float32


@pytest.mark.parametrize("shape", [(2, 4), (2, 2, 2, 2)])
def test_a_box_of_two_or_four_dimensions_is_flattened(shape):
    encoder = make_encoder(Box(-1, 1, shape, np.float32), "Learner")
    obs = torch.randn(5, *shape)
    assert torch.equal(encoder(obs), obs.flatten(1))
    assert encoder.out_features == np.prod(shape)


def test_a_box_that_is_one_number_is_one_feature():
    encoder = make_encoder(Box(-1, 1, (), np.float32), "Learner")
    assert encoder(torch.tensor([0.5, -1.0])).tolist() == [[0.5], [-1.0]]
    assert encoder.out_features == 1


@pytest.mark.parametrize(("n", "features"), [(4, 4), ((2, 3), 6)])
def test_switches_are_zeros_and_ones(n, features):
    encoder = make_encoder(MultiBinary(n), "Learner")
    obs = torch.from_numpy(np.stack([MultiBinary(n, seed=seed).sample() for seed in range(5)]))
    assert encoder(obs).dtype == torch.float32
    assert torch.equal(encoder(obs), obs.flatten(1).float())
    assert encoder.out_features == features


@pytest.mark.parametrize("start", [0, 5, -2])
def test_a_discrete_observation_is_one_hot_wherever_it_starts(start):
    encoder = make_encoder(Discrete(3, start=start), "Learner")
    assert encoder(torch.tensor([start, start + 2, start + 1])).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert encoder.out_features == 3


def test_images_have_the_same_features_with_channels_last_and_channels_first():
    last, first = make_encoder(HWC, "Learner"), make_encoder(CHW, "Learner")
    first.load_state_dict(last.state_dict())
    obs = images()
    features = last(obs)
    assert features.shape == (2, last.out_features) == (2, 512)
    assert (features[0] != features[1]).any()
    torch.testing.assert_close(first(obs.permute(0, 3, 1, 2)), features)
    with pytest.raises(RuntimeError, match="channels"):
        first(obs)


def test_bytes_are_scaled_by_255_and_real_images_are_not():
    of_bytes = make_encoder(HWC, "Learner")
    of_reals = make_encoder(Box(0, 1, (36, 40, 3), np.float32), "Learner")
    of_reals.load_state_dict(of_bytes.state_dict())
    obs = images()
    torch.testing.assert_close(of_bytes(obs), of_reals(obs.float() / 255), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(of_reals(obs.float()), of_bytes(obs), rtol=0.5)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_single_channel_and_four_stacked_frames_are_images(channels):
    for shape in ((36, 36, channels), (channels, 36, 36)):
        encoder = make_encoder(Box(0, 255, shape, np.uint8), "Learner")
        assert encoder.layers[0].in_channels == channels
        assert encoder(images(1, shape)).shape == (1, 512)


@pytest.mark.parametrize("shape", [(35, 36, 3), (36, 35, 3), (3, 36, 35), (8, 8, 3), (1, 10, 10)])
def test_images_too_small_for_the_convolutions_are_refused(shape):
    with pytest.raises(UsageError, match=r"shape \(.*\) is not supported by NatureCNN: .*36 x 36.*Resize") as caught:
        make_encoder(Box(0, 255, shape, np.uint8), "Learner")
    assert str(shape) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_entries_of_a_dict_are_encoded_each_by_its_own_encoder_and_put_side_by_side():
    space = Dict(
        {"vector": VECTOR, "image": HWC, "inner": Dict({"choice": Discrete(4, start=1), "on": MultiBinary(2)})}
    )
    encoder = make_encoder(space, "Learner")
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


@pytest.mark.parametrize("key", ["values", "keys", "type", "robot.arm"])
def test_an_entry_of_a_dict_may_have_any_name(key):
    space = Dict({key: VECTOR, "other": Discrete(2)})
    networks = PolicyAndValue(space, Discrete(2), TINY, "Learner", normalize_observations=True)
    assert networks.values({key: torch.randn(4, 3), "other": torch.tensor([0, 1, 1, 0])}).shape == (4,)


def test_logits_of_a_discrete_action_are_the_bodys():
    head, features = CategoricalHead(5, Discrete(4, start=3), TINY), torch.randn(6, 5)
    pi = head(features)
    assert isinstance(pi, Categorical)
    assert torch.equal(pi.logits, head.body(features))
    assert pi.logits.shape == (6, 4)


def test_logits_of_a_multi_discrete_action_are_split_into_its_choices():
    head, features = CategoricalHead(5, MultiDiscrete([2, 4, 3]), TINY), torch.randn(6, 5)
    pi = head(features)
    assert isinstance(pi, MultiCategorical)
    assert [part.logits.shape for part in pi.parts] == [(6, 2), (6, 4), (6, 3)]
    assert torch.equal(torch.cat([part.logits for part in pi.parts], -1), head.body(features))
    action = pi.sample()
    assert all(action[i].numpy() in MultiDiscrete([2, 4, 3]) for i in range(6))


def test_a_multi_discrete_action_of_one_choice_keeps_its_dimension():
    assert CategoricalHead(5, MultiDiscrete([4]), TINY)(torch.randn(6, 5)).sample().shape == (6, 1)


def test_logits_of_a_multi_binary_action_are_of_its_switches():
    head, features = CategoricalHead(5, MultiBinary(3), TINY), torch.randn(6, 5)
    pi = head(features)
    assert isinstance(pi, Bernoulli)
    assert torch.equal(pi.logits, head.body(features))
    assert pi.logits.shape == (6, 3)


def test_a_gaussian_has_one_deviation_for_all_states_that_is_a_parameter():
    head = GaussianHead(5, Box(-1, 1, (2,), np.float32), TINY, state_dependent_std=False, log_std_init=-0.5)
    features = torch.randn(6, 5)
    pi = head(features)
    assert isinstance(pi, Gaussian)
    assert torch.equal(pi.mean, head.body(features))
    assert torch.equal(pi.log_std, torch.full((6, 2), -0.5))
    (gradient,) = torch.autograd.grad(pi.log_std.sum(), head.log_std)
    assert gradient.tolist() == [6.0, 6.0]


@pytest.mark.parametrize(("bias", "bounded"), [(0.5, 0.5), (50.0, 2.0), (-50.0, -20.0)])
def test_a_gaussian_may_have_a_bounded_deviation_in_each_state(bias, bounded):
    head = GaussianHead(5, Box(-1, 1, (2,), np.float32), LINEAR, state_dependent_std=True, log_std_init=7.0)
    with torch.no_grad():
        head.body[0].bias.copy_(torch.tensor([0.0, 0.0, bias, bias]))
        head.body[0].weight[2:] *= 0.1
    features = torch.randn(6, 5)
    pi, out = head(features), head.body(features)
    assert not any(name.endswith("log_std") for name, _ in head.named_parameters())
    assert torch.equal(pi.mean, out[:, :2])
    assert torch.equal(pi.log_std, out[:, 2:].clamp(-20.0, 2.0))
    assert pi.log_std.mean().item() == pytest.approx(bounded, abs=0.3)
    assert (len(pi.log_std.unique()) > 1) is (bias == 0.5)


MIXED = Dict({"vector": VECTOR, "image": CHW})


def mixed_observations(batch=2):
    return {"vector": torch.randn(batch, 3), "image": images(batch, (3, 36, 40))}


def owners(networks):
    """Names of all parameters, those of the policy and those of the value."""
    policy, value = {id(p) for p in networks.policy.parameters()}, {id(p) for p in networks.value.parameters()}
    return {id(p) for p in networks.parameters()}, policy, value


@pytest.mark.parametrize(("space", "make"), [(VECTOR, lambda: torch.randn(2, 3)), (MIXED, mixed_observations)])
def test_policy_and_value_share_no_parameters_and_own_all_of_them(space, make):
    networks = PolicyAndValue(space, Discrete(3), TINY, "Learner")
    everything, policy, value = owners(networks)
    assert policy | value == everything
    assert not policy & value
    pi, v = networks(make())
    assert v.shape == (2,)
    assert not any(torch.autograd.grad(v.sum(), list(networks.policy.parameters()), allow_unused=True))
    assert not any(torch.autograd.grad(pi.logits.sum(), list(networks.value.parameters()), allow_unused=True))


def test_a_shared_trunk_belongs_to_the_policy_and_the_value_learns_through_it():
    networks = PolicyAndValue(MIXED, Discrete(3), TINY, "Learner", shared_trunk=True)
    everything, policy, value = owners(networks)
    trunk = list(networks.policy[0].parameters())
    assert policy | value == everything
    assert not policy & value
    assert {id(parameter) for parameter in trunk} < policy
    _, v = networks(mixed_observations())
    assert all(gradient.abs().max() > 0 for gradient in torch.autograd.grad(v.sum(), trunk))


@pytest.mark.parametrize("shared_trunk", [False, True])
@pytest.mark.parametrize("normalize_observations", [False, True])
def test_distribution_and_values_alone_are_those_of_both_together(shared_trunk, normalize_observations):
    networks = PolicyAndValue(
        MIXED, Discrete(3), TINY, "Learner", shared_trunk=shared_trunk, normalize_observations=normalize_observations
    )
    obs = mixed_observations(5)
    pi, v = networks(obs)
    assert torch.equal(networks.distribution(obs).logits, pi.logits)
    assert torch.equal(networks.values(obs), v)
    assert len(v.unique()) == 5
    assert len(pi.logits.unique(dim=0)) == 5


@pytest.mark.parametrize("call", ["distribution", "values"])
def test_both_networks_see_normalized_observations(call):
    networks = PolicyAndValue(VECTOR, Box(-1, 1, (2,), np.float32), TINY, "Learner", normalize_observations=True)
    obs = torch.randn(50, 4, 3) * 7 + 30
    networks.normalizer.update(obs, lambda tensor: tensor.unsqueeze(0))
    plain = PolicyAndValue(VECTOR, Box(-1, 1, (2,), np.float32), TINY, "Learner")
    plain.policy, plain.value = networks.policy, networks.value
    expected = getattr(plain, call)(networks.normalizer(obs[0]))
    actual = getattr(networks, call)(obs[0])
    for one, other in zip(*((x if call == "distribution" else [x]) for x in (actual, expected)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("space", [VECTOR, Discrete(4), MultiBinary(3), Dict({"a": VECTOR})])
def test_a_shared_trunk_is_refused_where_there_is_none_to_share(space):
    with pytest.raises(
        UsageError, match=r"^shared_trunk=True is not allowed with observation space .*images"
    ) as caught:
        PolicyAndValue(space, Discrete(2), TINY, "Learner", shared_trunk=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "space",
    [
        HWC,
        Box(0, 1, (36, 40, 3), np.float32),
        Discrete(4),
        MultiBinary(3),
        Box(0, 255, (4, 4), np.uint8),
        Dict({"image": CHW, "inner": Dict({"choice": Discrete(2)})}),
    ],
    ids=["image", "real image", "Discrete", "MultiBinary", "bytes", "Dict"],
)
def test_normalizing_observations_is_refused_where_there_are_none_to_normalize(space):
    with pytest.raises(
        UsageError, match=r"^normalize_observations=True is not allowed with observation space .*; leave it out$"
    ) as caught:
        PPO(space, Discrete(2), network=TINY, normalize_observations=True, compile=False)
    assert "\n" not in str(caught.value)


def assert_orthogonal(layer, gain):
    weight = layer.weight.detach().flatten(1).double()
    if weight.shape[0] > weight.shape[1]:
        weight = weight.T
    expected = gain**2 * torch.eye(len(weight), dtype=torch.float64)
    torch.testing.assert_close(weight @ weight.T, expected, rtol=1e-4, atol=1e-5 * gain**2)
    assert not layer.bias.any()


@pytest.mark.parametrize("shared_trunk", [False, True])
def test_weights_start_orthogonal_with_small_policy_outputs_and_zero_biases(shared_trunk):
    network = partial(MLP, hidden_sizes=(16, 8))
    networks = PolicyAndValue(MIXED, Discrete(3), network, "Learner", shared_trunk=shared_trunk)
    for owner, gain in ((networks.policy, 0.01), (networks.value, 1.0)):
        layers = [layer for layer in owner.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        assert len(layers) == 3 + (0 if owner is networks.value and shared_trunk else 4)
        *hidden, last = layers
        assert_orthogonal(last, gain)
        for layer in hidden:
            assert_orthogonal(layer, 2**0.5)


def test_a_policy_starts_almost_uniform_and_a_value_does_not_start_at_zero():
    networks = PolicyAndValue(VECTOR, Discrete(4), MLP, "Learner")
    pi, v = networks(torch.randn(64, 3))
    assert (pi.logits.softmax(-1) - 0.25).abs().max() < 0.02
    assert v.std() > 20 * pi.logits.std()


class Own(nn.Module):
    """A user's body, with an initialization of its own."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_features, 6), nn.ReLU(), nn.Linear(6, out_features))
        for layer in (self.layers[0], self.layers[2]):
            nn.init.constant_(layer.weight, 0.125)
            nn.init.constant_(layer.bias, 0.25)

    def forward(self, x):
        return self.layers(x)


def test_a_users_own_body_keeps_its_initialization_and_our_encoder_before_it_does_not():
    networks = PolicyAndValue(HWC, Discrete(3), Own, "Learner")
    for encoder, body in ((networks.policy[0], networks.policy[1].body), networks.value):
        for layer in (body.layers[0], body.layers[2]):
            assert (layer.weight == 0.125).all()
            assert (layer.bias == 0.25).all()
        assert isinstance(encoder, NatureCNN)
        for layer in encoder.layers:
            if isinstance(layer, nn.Linear | nn.Conv2d):
                assert_orthogonal(layer, 2**0.5)


def test_the_two_encoders_of_separate_networks_start_apart():
    networks = PolicyAndValue(HWC, Discrete(3), TINY, "Learner")
    assert not torch.equal(networks.policy[0].layers[0].weight, networks.value[0].layers[0].weight)


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        (lambda: [nn.Dropout(0.1)], "Dropout"),
        (lambda: [nn.BatchNorm1d(6)], "BatchNorm1d"),
        (lambda: [nn.AlphaDropout(0.1), nn.BatchNorm1d(6), nn.AlphaDropout(0.1)], "AlphaDropout, BatchNorm1d"),
    ],
)
def test_a_policy_with_modules_that_eval_mode_makes_idle_is_warned_of_once(layers, named):
    network = lambda inputs, outputs: nn.Sequential(nn.Linear(inputs, 6), *layers(), nn.Linear(6, outputs))  # noqa: E731
    with pytest.warns(UserWarning, match=rf"^network has {named}, ") as caught:
        PolicyAndValue(VECTOR, Discrete(2), network, "Learner")
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)


@pytest.mark.parametrize("network", [TINY, Own, lambda i, o: nn.Sequential(nn.LayerNorm(i), nn.Linear(i, o))])
def test_a_policy_that_is_the_same_in_both_modes_is_not_warned_of(network):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PolicyAndValue(VECTOR, Discrete(2), network, "Learner")


@pytest.mark.parametrize(
    ("action_space", "shape", "dtype"),
    [
        (Discrete(3), (), torch.int64),
        (MultiDiscrete([2, 3]), (2,), torch.int64),
        (MultiBinary(4), (4,), torch.int64),
        (Box(-1, 1, (2,), np.float32), (2,), torch.float32),
        (Box(-np.inf, np.inf, (2,), np.float64), (2,), torch.float32),
    ],
)
def test_actions_for_every_supported_action_space_have_its_shape_and_log_probs_are_vectors(action_space, shape, dtype):
    pi, _ = PolicyAndValue(VECTOR, action_space, TINY, "Learner")(torch.randn(7, 3))
    action = pi.sample()
    assert action.shape == (7, *shape)
    assert action.dtype == dtype
    assert pi.log_prob(action).shape == pi.entropy().shape == (7,)


@pytest.mark.parametrize(
    "space",
    [Tuple((VECTOR, VECTOR)), Text(5), MultiDiscrete([2, 3]), Dict({"a": VECTOR, "b": Text(3)})],
    ids=["Tuple", "Text", "MultiDiscrete", "Dict of Text"],
)
def test_an_observation_space_without_an_encoder_is_refused(space):
    with pytest.raises(UsageError, match=r"^observation space .* is not supported by Learner: .*Flatten") as caught:
        PolicyAndValue(space, Discrete(2), TINY, "Learner")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "space",
    [
        Box(-1, 1, (2, 2), np.float32),
        Box(-1, 1, (), np.float32),
        Box(0, 5, (2,), np.int64),
        MultiDiscrete([[2, 3], [4, 5]]),
        MultiBinary((2, 2)),
        Tuple((Discrete(2), Discrete(2))),
        Dict({"a": Discrete(2)}),
        Text(3),
    ],
    ids=lambda space: f"{type(space).__name__}{space.shape or ''}",
)
def test_an_action_space_without_a_policy_is_refused(space):
    with pytest.raises(UsageError, match=r"(?s)^action space .* is not supported by Learner: ") as caught:
        PolicyAndValue(VECTOR, space, TINY, "Learner")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spaces", "settings"),
    [
        ((Tuple((LONG,)), Discrete(2)), {}),
        ((VECTOR, Tuple((LONG,))), {}),
        ((LONG, Discrete(2)), {"shared_trunk": True}),
    ],
    ids=["observation space", "action space", "shared trunk"],
)
def test_a_space_that_takes_several_lines_to_print_is_refused_in_one(spaces, settings):
    assert "\n" in str(LONG)
    with pytest.raises(UsageError) as caught:
        PolicyAndValue(*spaces, TINY, "Learner", **settings)
    assert "\n" not in str(caught.value)


def test_layers_that_a_user_puts_into_an_mlp_count():
    network = MLP(3, 1, hidden_sizes=(8,))
    network.insert(1, nn.LayerNorm(8))
    network.insert(3, nn.Softplus())
    x = torch.randn(5, 3)
    torch.testing.assert_close(network(x), nn.Sequential(*network)(x))


@pytest.mark.parametrize("activation", ["relu", "tanh", "elu", "silu"])
def test_an_mlp_is_its_layers_one_after_the_other(activation):
    network = MLP(3, 2, hidden_sizes=(8, 4), activation=activation)
    x = torch.randn(5, 3)
    assert torch.equal(network(x), nn.Sequential(*network)(x))


HOOKS = {
    "forward": lambda layer, hook: layer.register_forward_hook(hook),
    "forward, with keywords": lambda layer, hook: layer.register_forward_hook(hook, with_kwargs=True),
    "forward pre": lambda layer, hook: layer.register_forward_pre_hook(hook),
    "backward": lambda layer, hook: layer.register_full_backward_hook(hook),
    "backward pre": lambda layer, hook: layer.register_full_backward_pre_hook(hook),
    "global forward": lambda layer, hook: nn.modules.module.register_module_forward_hook(hook),
    "global forward pre": lambda layer, hook: nn.modules.module.register_module_forward_pre_hook(hook),
    "global backward": lambda layer, hook: nn.modules.module.register_module_full_backward_hook(hook),
    "global backward pre": lambda layer, hook: nn.modules.module.register_module_full_backward_pre_hook(hook),
}


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_hook_on_a_layer_of_an_mlp_is_called_from_when_it_is_registered_until_it_is_removed(kind, index):
    network, x, called = MLP(3, 2, hidden_sizes=(4,)), torch.randn(5, 3, requires_grad=True), []
    network(x).sum().backward()
    handle = HOOKS[kind](network[index], lambda layer, *_: called.append(layer) if layer is network[index] else None)
    network(x).sum().backward()
    handle.remove()
    network(x).sum().backward()
    assert called == [network[index]]


def test_what_a_forward_hook_returns_takes_the_place_of_the_layers_output():
    network, x = MLP(3, 2, hidden_sizes=(4,)), torch.randn(5, 3)
    network[1].register_forward_hook(lambda layer, args, output: output + 1.0)
    expected = network[2](network[0](x).relu() + 1.0)
    assert torch.equal(network(x), expected)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2.0 * super().forward(x)


class Counted(nn.Linear):
    calls = 0

    def __call__(self, x):
        self.calls += 1
        return super().__call__(x)


def test_a_layer_of_an_mlp_that_is_called_in_its_own_way_is_called_in_that_way():
    network, x = MLP(3, 2, hidden_sizes=(4,)), torch.randn(5, 3)
    plain = network(x)
    doubled = Doubled(4, 2)
    doubled.load_state_dict(network[2].state_dict())
    network[2] = doubled
    assert torch.equal(network(x), 2.0 * plain)

    network[0].forward = lambda x: torch.zeros(len(x), 4)  # as adapters put themselves before a layer
    assert torch.equal(network(x), (2.0 * doubled.bias).expand(5, 2))

    network[2] = Counted(4, 2)
    network(x)
    assert network[2].calls == 1


def test_a_layer_of_an_mlp_compiled_in_place_runs_compiled():
    network, x, graphs = MLP(3, 2, hidden_sizes=(4,)), torch.randn(5, 3), []
    network[2] = Doubled(4, 2)
    plain = network(x)
    network[2].compile(backend=lambda graph, inputs: graphs.append(graph) or graph)
    assert torch.equal(network(x), plain)
    assert len(graphs) == 1


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.weight_norm])
def test_parametrized_layers_of_an_mlp_work_with_their_parametrized_weights(norm):
    network, x = MLP(3, 2, hidden_sizes=(4,)), torch.randn(5, 3)
    for index in (0, 2):
        nn.init.normal_(network[index].weight, std=3.0)
        norm(network[index])
    network(x).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
        for _ in range(50):  # of power iteration, in train mode
            network(x)
        network.eval()
        first, last = network[0], network[2]
        expected = (x @ first.weight.T + first.bias).relu() @ last.weight.T + last.bias
        torch.testing.assert_close(network(x), expected)
        if norm is nn.utils.parametrizations.spectral_norm:
            for layer in (first, last):
                assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1.0, rel=1e-3)


def test_an_mlp_compiles_to_one_graph():
    network, x, graphs = MLP(3, 2, hidden_sizes=(4, 4)), torch.randn(5, 3), []
    compiled = torch.compile(network, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph)
    assert torch.equal(compiled(x), network(x))
    assert len(graphs) == 1


def test_a_hook_on_a_layer_is_called_whenever_its_learner_acts_and_learns():
    data = counter_data(total_env_steps=20)
    model = tiny_sac(data.observation_space, data.action_space)
    sizes = []
    model.policy.body[0].register_forward_hook(lambda layer, args, output: sizes.append(len(output)))
    fit(model, data)
    # eight steps after the random ones: each is acted, and learned from with a batch of 8
    assert sizes == [1, 8] * 8
