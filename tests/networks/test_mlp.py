import pytest
import torch
from torch import nn

from rl_lightning.networks import MLP


def test_an_mlp_has_an_activation_after_every_layer_but_the_last():
    kinds = [type(layer) for layer in MLP(3, 2, hidden_sizes=(5, 4), activation="tanh")]
    assert kinds == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    shapes = [tuple(p.shape) for p in MLP(3, 2, hidden_sizes=(5, 4)).parameters()]
    assert shapes == [(5, 3), (5,), (4, 5), (4,), (2, 4), (2,)]
    assert [type(layer) for layer in MLP(3, 2, hidden_sizes=())] == [nn.Linear]


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


def test_an_mlp_compiles_to_one_graph():
    network, x, graphs = MLP(3, 2, hidden_sizes=(4, 4)), torch.randn(5, 3), []
    compiled = torch.compile(network, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph)
    assert torch.equal(compiled(x), network(x))
    assert len(graphs) == 1
