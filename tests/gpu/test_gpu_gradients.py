"""Gradients, gradient steps and whole runs on a GPU are those of the CPU."""

import pytest
import torch
from learners import sgd
from on_device import DrawnOnTheCPU, batch_for, distance, every, functions, run, trained, twin

from rl_lightning.optim import ForeachRMSprop, FusedAdam

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
# float32 has 24 bits; sums of some hundred terms, in another order, differ by some of the last ones
FLOAT32 = 1e-4
# bf16 has 8 bits, to which every layer and its gradient are rounded, elsewhere on each device; and the smaller of two
# Q's may be the other one. On the CPU gradients in bf16 are 0.001 to 0.01 from those in float32, of images to 0.06
BF16 = 0.1


def found_on(model, latest, device, bf16=False):
    """By function, from the same numbers, random ones too."""
    found = {}
    for name, function in functions(model).items():
        torch.manual_seed(1)
        with DrawnOnTheCPU(), torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
            found[name] = model.compute(function, *batch_for(model, latest[name], device))
    return found


@every
@pytest.mark.parametrize(("bf16", "tolerance"), [(False, FLOAT32), (True, BF16)], ids=["float32", "bf16"])
def test_gradients_and_metrics_of_one_minibatch_are_those_of_the_cpu(case, obs, bf16, tolerance, device):
    model, latest = trained(case, obs)
    del model.compute  # so that nothing is noted any more
    expected = found_on(model, latest, CPU, bf16)
    actual = found_on(twin(case, obs, model, device), latest, device, bf16)
    for name, wanted in expected.items():
        got = actual[name]
        assert got.of.keys() == wanted.of.keys()
        assert got.metrics.keys() == wanted.metrics.keys()
        for network, gradients in wanted.of.items():
            assert {gradient.device.type for gradient in got.of[network]} == {device.type}
            assert {gradient.dtype for gradient in got.of[network]} == {torch.float32}
            assert distance(got.of[network], gradients) < tolerance, (name, network)
        for metric, value in wanted.metrics.items():
            torch.testing.assert_close(got.metrics[metric].cpu(), value, rtol=tolerance, atol=tolerance, msg=metric)
        for field in ("td_error", "approx_kl"):
            one, other = getattr(got, field), getattr(wanted, field)
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one.cpu(), other, rtol=tolerance, atol=tolerance)


@every
def test_a_run_of_some_gradient_steps_comes_to_the_weights_and_rows_of_the_cpu(case, obs, device):
    # along plain gradients: Adam's first steps are of one length, be a gradient large or an error of the last digit
    rates = {f"{name}_optimizer": sgd(0.05) for name in case.learned if f"{name}_optimizer" in case.arguments}
    with DrawnOnTheCPU():
        expected, actual = run(case, obs, CPU, **rates), run(case, obs, device, **rates)
    assert actual.model.gradient_steps == expected.model.gradient_steps > 0
    assert actual.model.env_steps == expected.model.env_steps
    assert [row.keys() for row in actual.rows] == [row.keys() for row in expected.rows]
    for row, wanted in zip(actual.rows, expected.rows, strict=True):
        assert row == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    torch.testing.assert_close(actual.weights, expected.weights, rtol=1e-3, atol=1e-4)


@every
def test_a_run_in_bf16_keeps_weights_in_float32_and_logs_the_same_metrics(case, obs, device):
    expected = run(case, obs, CPU).rows
    actual = run(case, obs, device, trainer={"precision": "bf16-mixed"})
    assert all(tensor.isfinite().all() for tensor in actual.weights.values())
    assert {parameter.dtype for parameter in actual.model.parameters()} == {torch.float32}
    assert [row.keys() for row in actual.rows] == [row.keys() for row in expected]


@pytest.mark.parametrize(
    ("optimizer", "of_torch"),
    [
        (lambda params: FusedAdam(params, lr=1e-2), lambda params: torch.optim.Adam(params, lr=1e-2)),
        (lambda params: ForeachRMSprop(params, lr=1e-2), lambda params: torch.optim.RMSprop(params, lr=1e-2)),
    ],
    ids=["adam", "rmsprop"],
)
def test_an_optimizer_goes_on_from_a_state_of_torchs_own_as_that_does_on_the_cpu(optimizer, of_torch, device):
    torch.manual_seed(0)
    start = [torch.randn(4, 5), torch.randn(5), torch.randn(())]
    gradients = [[torch.randn_like(tensor) for tensor in start] for _ in range(6)]

    def stepped(made, device, tensors, steps, state=None):
        parameters = [tensor.detach().clone().to(device).requires_grad_() for tensor in tensors]
        own = made(parameters)
        if state is not None:
            own.load_state_dict(state)
        for step in steps:
            for parameter, gradient in zip(parameters, step, strict=True):
                parameter.grad = gradient.to(device)
            own.step()
        return [parameter.detach().cpu() for parameter in parameters], own

    half, first = stepped(of_torch, CPU, start, gradients[:3])
    expected, _ = stepped(of_torch, CPU, start, gradients)
    state = first.state_dict()
    actual, own = stepped(optimizer, device, half, gradients[3:], state)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    assert {moments["step"].item() for moments in own.state.values()} == {6.0}
