"""Compiled gradients on a GPU, with and without CUDA graphs."""

import pytest
import torch
from learners import CASES, WITH_CRITIC, called, leaves
from on_device import batch_for, every_compiled, functions, run, trained, twin

from rl_lightning import TD3

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("error:gradients run eagerly")]
ALL = [case for case in [*CASES, *WITH_CRITIC] if "compile" in case.arguments]
LATE_POLICY = next(case for case in CASES if case.learner is TD3)
LATE_POLICY = LATE_POLICY._replace(settings={**LATE_POLICY.settings, "policy_delay": 2})  # two graphs by turns
each_run = pytest.mark.parametrize("case", [*ALL, LATE_POLICY], ids=called)


def skips():
    return torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]


@pytest.fixture(autouse=True)
def _drawn_as_eager_code_does():
    with torch._inductor.config.patch(fallback_random=True):
        yield


@pytest.mark.parametrize("graphs", [False, True], ids=["compiled", "cuda_graphs"])
@every_compiled
def test_compiled_gradients_are_eager_ones_at_every_call(case, obs, graphs, device, cuda_graphs):
    cuda_graphs(graphs)
    model, latest = trained(case, obs)
    before = skips()
    compiled, eager = twin(case, obs, model, device, compile=True), twin(case, obs, model, device)
    for name, function in functions(compiled).items():
        batch = batch_for(compiled, latest[name], device)
        for call in range(4):  # warm-up, recording, and twice the recorded one
            torch.manual_seed(call)
            found = compiled.compute(function, *batch)
            torch.manual_seed(call)
            expected = eager.compute(functions(eager)[name], *batch_for(eager, latest[name], device))
            torch.testing.assert_close([*leaves(found)], [*leaves(expected)], rtol=1e-4, atol=1e-5, msg=f"call {call}")
    assert skips() == before  # of graphs that CUDA could not record


@each_run
def test_a_run_with_cuda_graphs_comes_to_the_weights_and_rows_of_one_without(case, device, cuda_graphs):
    runs = []
    for graphs in (False, True):
        cuda_graphs(graphs)
        runs.append(run(case, "vector", device, seed_steps=True, longer=3, compile=True))
    expected, actual = runs
    assert [row.keys() for row in actual.rows] == [row.keys() for row in expected.rows]
    for row, wanted in zip(actual.rows, expected.rows, strict=True):
        assert row == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    torch.testing.assert_close(actual.weights, expected.weights, rtol=1e-3, atol=1e-4)


@each_run
def test_what_a_step_has_found_stays_when_the_next_one_is_taken(case, device, cuda_graphs):
    cuda_graphs(True)
    model, latest = trained(case, "vector")
    compiled = twin(case, "vector", model, device, compile=True)
    held = []
    for call in range(5):
        for name, function in functions(compiled).items():
            batch = list(batch_for(compiled, latest[name], device))
            place = next(i for i, part in enumerate(batch) if isinstance(part, tuple))
            fields = batch[place]._asdict()
            other = {key: fields[key] * (1.0 + call) for key in ("reward", "returns") if key in fields}
            batch[place] = batch[place]._replace(**other)
            found = compiled.compute(function, *batch)
            kept = [found.metrics, *(part for part in (found.td_error, found.approx_kl) if part is not None)]
            held.append(([*leaves(kept)], [leaf.clone() for leaf in leaves(kept)]))
            gradients = [leaf.clone() for leaf in leaves(found.of)]
            assert all(gradient.isfinite().all() for gradient in gradients)
    for kept, as_found in held:
        assert all(torch.equal(one, other) for one, other in zip(kept, as_found, strict=True))
    assert len({tuple(leaf.mean().item() for leaf in as_found) for _, as_found in held}) > 1  # else nobody would see it


def test_cuda_graphs_are_recorded_where_they_are_on_and_nowhere_else(device, cuda_graphs):
    if device.type != "cuda":
        pytest.skip("there are no CUDA graphs on the CPU")
    case = CASES[-1]
    model, latest = trained(case, "vector")

    def addresses(graphs):
        """Of a gradient, in calls whose results are all held."""
        cuda_graphs(graphs)
        compiled, found = twin(case, "vector", model, device, compile=True), []
        [(name, function)] = functions(compiled).items()
        for _ in range(6):
            found.append(compiled.compute(function, *batch_for(compiled, latest[name], device)))
        return [one.of["q"][0].data_ptr() for one in found[3:]]

    assert len({*addresses(True)}) == 1  # the memory of the graph
    assert len({*addresses(False)}) == 3
