import pytest
import torch
from torch import nn
from toys import counter_data, fit, tiny_sac

from rl_lightning.networks import MLP

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
