import warnings
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from torch import nn
from toys import LINEAR, TINY

from rl_lightning import PPO, UsageError
from rl_lightning.networks import MLP
from rl_lightning.networks.distributions import Bernoulli, Categorical, Gaussian, MultiCategorical
from rl_lightning.networks.encoders import ImageEncoder
from rl_lightning.networks.policy_and_value import CategoricalHead, GaussianHead, PolicyAndValue

VECTOR = Box(-np.inf, np.inf, (3,), np.float32)
HWC, CHW = Box(0, 255, (36, 40, 3), np.uint8), Box(0, 255, (3, 36, 40), np.uint8)
LONG = Box(np.arange(60, dtype=np.float32), np.arange(60, dtype=np.float32) + 1.5)  # takes several lines to print


@pytest.mark.parametrize("key", ["values", "keys", "type", "robot.arm"])
def test_an_entry_of_a_dict_may_have_any_name(key):
    space = Dict({key: VECTOR, "other": Discrete(2)})
    networks = PolicyAndValue(space, Discrete(2), TINY, normalize_observations=True)
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
    return {
        "vector": torch.randn(batch, 3),
        "image": torch.randint(0, 256, (batch, 3, 36, 40), dtype=torch.uint8),
    }


def owners(networks):
    """Names of all parameters, those of the policy and those of the value."""
    policy, value = {id(p) for p in networks.policy.parameters()}, {id(p) for p in networks.value.parameters()}
    return {id(p) for p in networks.parameters()}, policy, value


@pytest.mark.parametrize(("space", "make"), [(VECTOR, lambda: torch.randn(2, 3)), (MIXED, mixed_observations)])
def test_policy_and_value_share_no_parameters_and_own_all_of_them(space, make):
    networks = PolicyAndValue(space, Discrete(3), TINY)
    everything, policy, value = owners(networks)
    assert policy | value == everything
    assert not policy & value
    pi, v = networks(make())
    assert v.shape == (2,)
    assert not any(torch.autograd.grad(v.sum(), list(networks.policy.parameters()), allow_unused=True))
    assert not any(torch.autograd.grad(pi.logits.sum(), list(networks.value.parameters()), allow_unused=True))


def test_a_shared_trunk_belongs_to_the_policy_and_the_value_learns_through_it():
    networks = PolicyAndValue(MIXED, Discrete(3), TINY, shared_trunk=True)
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
        MIXED, Discrete(3), TINY, shared_trunk=shared_trunk, normalize_observations=normalize_observations
    )
    obs = mixed_observations(5)
    pi, v = networks(obs)
    assert torch.equal(networks.distribution(obs).logits, pi.logits)
    assert torch.equal(networks.values(obs), v)
    assert len(v.unique()) == 5
    assert len(pi.logits.unique(dim=0)) == 5


@pytest.mark.parametrize("call", ["distribution", "values"])
def test_both_networks_see_normalized_observations(call):
    networks = PolicyAndValue(VECTOR, Box(-1, 1, (2,), np.float32), TINY, normalize_observations=True)
    obs = torch.randn(50, 4, 3) * 7 + 30
    networks.normalizer.update(obs, lambda tensor: tensor.unsqueeze(0))
    plain = PolicyAndValue(VECTOR, Box(-1, 1, (2,), np.float32), TINY)
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
        PolicyAndValue(space, Discrete(2), TINY, shared_trunk=True)
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
        UsageError, match=r"^normalize_observations=True is not allowed with observation space .*; give false$"
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
    networks = PolicyAndValue(MIXED, Discrete(3), network, shared_trunk=shared_trunk)
    for owner, gain in ((networks.policy, 0.01), (networks.value, 1.0)):
        layers = [layer for layer in owner.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        assert len(layers) == 3 + (0 if owner is networks.value and shared_trunk else 4)
        *hidden, last = layers
        assert_orthogonal(last, gain)
        for layer in hidden:
            assert_orthogonal(layer, 2**0.5)


def test_a_policy_starts_almost_uniform_and_a_value_does_not_start_at_zero():
    networks = PolicyAndValue(VECTOR, Discrete(4), MLP)
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
    networks = PolicyAndValue(HWC, Discrete(3), Own)
    for encoder, body in ((networks.policy[0], networks.policy[1].body), networks.value):
        for layer in (body.layers[0], body.layers[2]):
            assert (layer.weight == 0.125).all()
            assert (layer.bias == 0.25).all()
        assert isinstance(encoder, ImageEncoder)
        for layer in encoder.layers:
            if isinstance(layer, nn.Linear | nn.Conv2d):
                assert_orthogonal(layer, 2**0.5)


def test_the_two_encoders_of_separate_networks_start_apart():
    networks = PolicyAndValue(HWC, Discrete(3), TINY)
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
        PolicyAndValue(VECTOR, Discrete(2), network)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)


@pytest.mark.parametrize("network", [TINY, Own, lambda i, o: nn.Sequential(nn.LayerNorm(i), nn.Linear(i, o))])
def test_a_policy_that_is_the_same_in_both_modes_is_not_warned_of(network):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PolicyAndValue(VECTOR, Discrete(2), network)


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
    pi, _ = PolicyAndValue(VECTOR, action_space, TINY)(torch.randn(7, 3))
    action = pi.sample()
    assert action.shape == (7, *shape)
    assert action.dtype == dtype
    assert pi.log_prob(action).shape == pi.entropy().shape == (7,)


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
    with pytest.raises(UsageError, match=r"(?s)^action space .* is not supported: ") as caught:
        PolicyAndValue(VECTOR, space, TINY)
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
        PolicyAndValue(*spaces, TINY, **settings)
    assert "\n" not in str(caught.value)
