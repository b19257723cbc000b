from functools import partial

import gymnasium as gym
import pytest
import torch
from short_runs import ppo, sac, weights

from rl_lightning import A2C, MLP, Rollout
from rl_lightning.algorithms.shared.computing import kept
from rl_lightning.fast import compilation, switch
from rl_lightning.fast.compilation import compiled_or_eager

pytestmark = pytest.mark.filterwarnings("error::UserWarning")  # compiling has nothing to say
OBS, ACTION = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2)


@pytest.fixture(autouse=True)
def _every_warning_anew(monkeypatch):
    monkeypatch.setattr(torch._dynamo.utils, "warn_once_cache", set())


def learner(activation="tanh", **settings):
    return A2C(OBS, ACTION, network=partial(MLP, hidden_sizes=(8,), activation=activation), **settings)


def rollout(steps=4):
    torch.manual_seed(0)
    no = torch.zeros(steps, 2, dtype=torch.bool)
    obs = torch.randn(2, steps, 2, 3)
    return Rollout(obs[0], torch.randint(2, (steps, 2)), torch.randn(steps, 2), obs[1], no, no)


def compiled_gradients(model):
    return model.compute_gradients


def assert_same(compiled, model, batch):
    found, expected = compiled(batch), model.gradients(batch)
    torch.testing.assert_close(found.metrics, expected.detach().metrics, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.of, expected.of, rtol=1e-4, atol=1e-5)


def test_learners_of_one_class_have_graphs_of_their_own():
    tanh, relu = learner("tanh"), learner("relu")  # nothing that is watched tells them apart
    compiled = [compiled_gradients(model) for model in (tanh, relu)]
    for _ in range(2):
        assert_same(compiled[0], tanh, rollout())
        assert_same(compiled[1], relu, rollout())


@pytest.mark.parametrize(("name", "value"), [("ent_coef", 0.5), ("gamma", 0.5), ("max_grad_norm", None)])
def test_a_number_that_is_changed_in_a_run_counts_from_then_on(name, value):
    model = learner()
    compiled = compiled_gradients(model)
    assert_same(compiled, model, rollout())
    setattr(model, name, value)
    assert_same(compiled, model, rollout())


def test_every_graph_is_watched_as_little_as_the_first(monkeypatch):
    given = []
    compile = torch.compile

    def noting(function, **settings):
        given.append({**settings["options"]})
        return compile(function, **settings)  # which takes some options out of the dict

    monkeypatch.setattr(torch, "compile", noting)
    for _ in range(2):
        compiled_or_eager(lambda x: x + 1)
    assert given[0] == given[1]
    assert "guard_filter_fn" in given[0]


@pytest.mark.parametrize(("device", "graphs"), [("cpu", False), ("cuda", False), ("cuda", True)])
def test_a_gpu_has_options_of_its_own_which_torch_knows_and_takes_together(device, graphs, monkeypatch):
    monkeypatch.setattr(switch, "has_cuda_graphs", lambda: graphs)
    options = compilation._options(torch.device(device))
    # with calls from C++ torch leaves CUDA graphs out
    assert options.get("triton.cudagraphs", False) == graphs
    assert options.get("cpp_wrapper", False) == (device == "cpu")
    torch.compile(lambda x: x, options=options)


def test_what_a_cuda_graph_would_write_over_is_copied_and_gradients_are_not():
    static = {name: torch.zeros(3) for name in ("metric", "gradient", "td_error")}

    def graph(x):
        for tensor in static.values():
            tensor.copy_(x)
        return {"train/loss": static["metric"]}, {"q": (static["gradient"],)}, static["td_error"], None

    metrics, of, td_error, approx_kl = kept(graph)(torch.ones(3))
    kept(graph)(torch.full((3,), 2.0))
    assert metrics["train/loss"].tolist() == td_error.tolist() == [1.0, 1.0, 1.0]
    assert of["q"][0] is static["gradient"]
    assert approx_kl is None


def test_parameters_that_are_frozen_for_good_have_no_gradients_in_the_graph_either():
    model = learner()
    model.networks.policy[1].body[0].requires_grad_(False)
    model.networks.value.requires_grad_(False)
    compiled = compiled_gradients(model)
    assert_same(compiled, model, rollout())
    assert [len(compiled(rollout()).of[name]) for name in ("policy", "value")] == [2, 0]


def test_batches_of_another_shape_get_another_graph():
    model = learner()
    compiled = compiled_gradients(model)
    assert_same(compiled, model, rollout(4))
    assert_same(compiled, model, rollout(7))
    assert_same(compiled, model, rollout(4))


def test_parameters_that_have_moved_are_the_ones_differentiated():
    model = learner()
    compiled = compiled_gradients(model)
    assert_same(compiled, model, rollout())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert_same(compiled, model, rollout())
    model.load_state_dict(learner().state_dict(), assign=True)  # other tensors, as loading may bring
    assert_same(compiled, model, rollout())


@pytest.mark.parametrize("make", [ppo, sac])
def test_a_compiled_run_comes_to_the_weights_of_one_without_tricks(make, plain_ways):
    # compiled code draws other numbers otherwise
    with torch._inductor.config.patch(fallback_random=True):
        expected = weights(make, compile=True)
    with plain_ways():
        actual = weights(make, compile=True)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class InSeveralProcesses(torch.nn.Module):
    """Takes gradients inside its forward, as a learner does inside the wrapper that Lightning puts around it."""

    def __init__(self):
        super().__init__()
        # more than one of the wrapper's buckets
        self.layers = torch.nn.Sequential(*(torch.nn.Linear(600, 600) for _ in range(3)))
        self.compiled = compiled_or_eager(self.gradients)

    def gradients(self, x):
        return torch.autograd.grad(self.layers(x).square().mean(), list(self.parameters()))

    def forward(self, x):
        return self.compiled(x)


def test_gradients_compile_inside_the_wrapper_of_several_processes_too():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped, x = torch.nn.parallel.DistributedDataParallel(InSeveralProcesses()), torch.randn(4, 600)
        found = wrapped(x)
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(found, wrapped.module.gradients(x), rtol=1e-4, atol=1e-6)
