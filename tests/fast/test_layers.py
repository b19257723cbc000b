from copy import deepcopy

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from test_switch import entered
from torch import nn
from toys import TINY, counter_data, fit, tiny_sac

from rl_lightning.networks import MLP
from rl_lightning.networks.encoders import OneHotEncoder
from rl_lightning.networks.policy_and_value import PolicyAndValue

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


def test_a_hook_on_a_layer_is_called_whenever_its_learner_acts_and_learns():
    data = counter_data(total_env_steps=20)
    model = tiny_sac(data.observation_space, data.action_space)
    sizes = []
    model.policy.body[0].register_forward_hook(lambda layer, args, output: sizes.append(len(output)))
    fit(model, data)
    # eight steps after the random ones: each is acted, and learned from with a batch of 8
    assert sizes == [1, 8] * 8


SPACE = Box(-1.0, 1.0, (3,), np.float32)
NETWORKS = {
    "normals": lambda: PolicyAndValue(SPACE, Box(-1.0, 1.0, (2,), np.float32), TINY, normalize_observations=True),
    "normals, their own deviation": lambda: PolicyAndValue(SPACE, SPACE, TINY, state_dependent_std=True),
    "choices": lambda: PolicyAndValue(SPACE, Discrete(4), TINY),
    "several choices": lambda: PolicyAndValue(SPACE, MultiDiscrete([2, 3]), TINY),
    "numbers of states": lambda: PolicyAndValue(Discrete(3), Discrete(4), TINY),
}


def act(networks, obs):
    with torch.no_grad():
        torch.manual_seed(0)
        return networks.act(obs), networks.act(obs, deterministic=True), torch.random.get_rng_state()


def check_acting(networks, plain_ways, passes):
    """Acting equals plain acting, by the short way or not."""
    discrete = isinstance(networks.policy[0], OneHotEncoder)
    for batch in (1, 5):
        obs = torch.arange(batch) % 3 if discrete else torch.randn(batch, 3)
        with plain_ways():
            expected = act(networks, obs)
        with entered() as names:
            actual = act(networks, obs)
        assert ("layers._linear.<locals>.<lambda>" in names) is passes
        assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_acting_past_the_calls_of_modules_is_bit_equal_whatever_becomes_of_the_parameters(make, plain_ways):
    networks = make()
    optimizer = torch.optim.SGD(networks.parameters(), lr=1.0)
    check_acting(networks, plain_ways, True)
    for parameter in networks.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    check_acting(networks, plain_ways, True)
    networks.load_state_dict({name: torch.randn_like(x).abs() for name, x in networks.state_dict().items()})
    check_acting(networks, plain_ways, True)
    networks.load_state_dict(make().state_dict(), assign=True)
    check_acting(networks, plain_ways, True)
    for parameter in networks.parameters():
        parameter.data = torch.randn_like(parameter)
    check_acting(networks, plain_ways, True)
    check_acting(deepcopy(networks), plain_ways, True)
    networks.policy[1].body = MLP(3, networks.policy[1].body[-1].out_features, activation="tanh")
    check_acting(networks, plain_ways, True)
    networks.policy[1].body[0] = Doubled(3, 256)
    check_acting(networks, plain_ways, True)


class Twice(nn.Sequential):
    def forward(self, x):
        return 2.0 * super().forward(x)


def parts(networks):
    encoder, head = networks.policy
    return {"encoder": encoder, "head": head, "body": head.body, "layer": head.body[1]}


@pytest.mark.parametrize("name", ["encoder", "head", "body", "layer"])
def test_a_hook_or_another_forward_of_any_part_of_a_policy_is_called_from_the_next_action_on(name, plain_ways):
    networks, obs, calls = NETWORKS["choices"](), torch.randn(2, 3), []
    check_acting(networks, plain_ways, True)
    part = parts(networks)[name]
    handle = part.register_forward_hook(lambda *_: calls.append(name))
    act(networks, obs)
    assert calls == [name, name]
    handle.remove()
    check_acting(networks, plain_ways, True)
    forward = part.forward
    part.forward = lambda x: calls.append("own") or forward(x)
    act(networks, obs)
    assert calls == [name, name, "own", "own"]
    del part.forward
    check_acting(networks, plain_ways, True)


def test_a_sequence_with_a_forward_of_its_own_is_not_taken_apart(plain_ways):
    networks = NETWORKS["choices"]()
    check_acting(networks, plain_ways, True)
    networks.policy[1].body = Twice(nn.Linear(3, 4), nn.Tanh())
    check_acting(networks, plain_ways, False)
