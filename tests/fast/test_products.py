import math
from contextlib import contextmanager, nullcontext
from functools import partial

import gymnasium as gym
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from toys import one_step

from rl_lightning import DQN, MLP, UsageError
from rl_lightning.fast import products
from rl_lightning.fast.products import (
    Measured,
    Product,
    asked,
    check_asked,
    fastest,
    fault_of_processor,
    given,
    measure,
    onednn,
    products_of,
    why_torch,
)


def plain(*shape):
    return shape, (shape[1], 1)


def turned(*shape):
    return shape, (1, shape[0])


SMALL, LARGE = Product("mm", (plain(2, 3), plain(3, 4))), Product("mm", (plain(64, 64), plain(64, 64)))


def test_the_products_of_two_layers_are_those_counted_by_hand():
    layers = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    x = torch.randn(7, 3)

    def gradients():
        return torch.autograd.grad(layers(x).square().sum(), [*layers.parameters()])

    assert products_of(gradients, (), ()) == {
        Product("addmm", (((5,), (1,)), plain(7, 3), turned(3, 5))): 1,  # b + x Wᵀ, the bias as torch gets it
        Product("addmm", (((2,), (1,)), plain(7, 5), turned(5, 2))): 1,
        Product("mm", (plain(7, 2), plain(2, 5))): 1,  # to the first layer's output
        Product("mm", (turned(2, 7), plain(7, 5))): 1,  # to each weight
        Product("mm", (turned(5, 7), plain(7, 3))): 1,
    }


def test_batches_of_products_are_counted_and_those_of_other_dtypes_and_of_nothing_are_not():
    a, b = torch.randn(4, 2, 3), torch.randn(4, 3, 5)
    batch = Product("bmm", (((4, 2, 3), (6, 3, 1)), ((4, 3, 5), (15, 5, 1))))

    def multiply():
        a @ b, a @ b, a.double() @ b.double(), torch.zeros(0, 2) @ torch.zeros(2, 3)

    assert products_of(multiply, (), ()) == {batch: 2}


def test_the_products_of_dqn_are_those_of_its_two_networks():
    space, hidden = gym.spaces.Box(-1, 1, (3,)), 8
    model = DQN(space, gym.spaces.Discrete(2), network=partial(MLP, hidden_sizes=(hidden,)))
    flat = torch.zeros(5)
    batch = one_step(torch.randn(5, 3), flat.long(), flat, torch.randn(5, 3), flat.bool())
    counts = products_of(model.gradients, (batch,), model.buffers())
    # forward: two layers of Q and of its target each; backward: two weights, and the hidden layer's output
    assert sum(counts.values()) == 4 + 3
    assert counts[Product("addmm", (((hidden,), (1,)), plain(5, 3), turned(3, hidden)))] == 2


def test_counting_leaves_random_numbers_and_statistics_as_they_were():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout())
    buffers = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x, before = torch.randn(7, 3), torch.get_rng_state()
    assert sum(products_of(network, (x,), network.buffers()).values()) == 1
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in network.state_dict().items())
    network(x)
    assert not torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(network[1].running_mean, buffers["1.running_mean"])


class Time:
    """A clock that stands still but while products are made."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def passes(self, *seconds, multiply=None):
        """A way in which products take these times in turn."""
        return _Takes(self, seconds, multiply)


class _Takes(TorchDispatchMode):
    def __init__(self, time, seconds, multiply):
        super().__init__()
        self.time, self.seconds, self.multiply, self.calls = time, seconds, multiply, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten.mm and args[0].dtype == torch.float32:
            self.time.now += self.seconds[self.calls % len(self.seconds)]
            self.calls += 1
            if self.multiply is not None:
                out = self.multiply(*args)
                return kwargs["out"].copy_(out) if kwargs else out
        return func(*args, **(kwargs or {}))


def in_bf16(left, right):
    return (left.bfloat16() @ right.bfloat16()).float()


def test_the_shortest_time_of_each_library_counts():
    time = Time()
    ways = {"torch": time.passes(5.0, 3.0, 4.0), "onednn": time.passes(2.0, 9.0)}
    measured = measure(LARGE, {name: lambda way=way: way for name, way in ways.items()}, time)
    assert {name: each.seconds for name, each in measured.items()} == {"torch": 3.0, "onednn": 2.0}
    assert measured["torch"].error == measured["onednn"].error
    assert 0 < measured["torch"].error < 1e-6
    assert ways["torch"].calls == 1 + 3 * products.TURN  # the fourth round would only take time


def test_each_library_has_its_turns_at_once_where_a_product_is_short():
    order = []

    @contextmanager
    def noted(name):
        order.append(name)
        yield

    measure(SMALL, {name: partial(noted, name) for name in ("torch", "onednn")}, Time())
    assert order == ["torch", "onednn"] * (1 + products.ROUNDS)


def test_a_library_that_multiplies_in_bf16_is_refused_however_fast_it_is():
    time = Time()
    ways = {"torch": time.passes(1.0), "onednn": time.passes(0.001, multiply=in_bf16)}
    measured = {LARGE: measure(LARGE, {name: lambda way=way: way for name, way in ways.items()}, time)}
    assert measured[LARGE]["onednn"].error > 1e-3
    assert fastest({LARGE: 1}, measured) == ("torch", 1.0)
    same = {LARGE: {name: each._replace(error=2e-7) for name, each in measured[LARGE].items()}}
    assert fastest({LARGE: 1}, same) == ("onednn", pytest.approx(1000.0))


def test_an_error_is_that_of_the_product_with_the_numbers_and_strides_it_has():
    product = Product("addmm", (((4,), (1,)), turned(2, 3), turned(3, 4)))
    bias, left, right = product.operands()
    assert [tensor.stride() for tensor in (bias, left, right)] == [(1,), (1, 2), (1, 3)]
    half = {"torch": lambda: nullcontext()}
    exact = bias.double() + left.double() @ right.double()
    found = torch.addmm(bias, left, right)
    expected = math.sqrt(float((found.double() - exact).square().sum() / exact.square().sum()))
    assert measure(product, half)["torch"].error == pytest.approx(expected)
    [expanded] = Product("mm", (((2, 3), (0, 1)),)).operands()
    assert torch.equal(expanded[0], expanded[1])


def of(torch_seconds, onednn_seconds, onednn_error=2e-7):
    return {"torch": Measured(torch_seconds, 2e-7), "onednn": Measured(onednn_seconds, onednn_error)}


@pytest.mark.parametrize(
    ("counts", "small", "large", "expected"),
    [
        ((1, 1), of(1, 2), of(8, 4), ("onednn", 9 / 6)),  # by the sum
        ((9, 1), of(1, 2), of(8, 4), ("torch", 1.0)),  # 17 to 22
        ((1, 1), of(1, 1), of(11.0, 10.0), ("torch", 1.0)),  # faster, not clearly
        ((1, 1), of(1.2, 1), of(11.0, 10.0), ("onednn", 12.2 / 11)),
        ((1, 1), of(1, 2, 8.1e-7), of(8, 1), ("torch", 1.0)),  # one product of too large an error
        ((1, 1), of(1, 2, 7.9e-7), of(8, 1), ("onednn", 9 / 3)),
    ],
)
def test_the_fastest_is_that_of_all_products_of_a_run_together(counts, small, large, expected):
    assert fastest(dict(zip((SMALL, LARGE), counts, strict=True)), {SMALL: small, LARGE: large}) == expected


def test_torch_stays_where_there_are_no_products():
    assert fastest({}, {}) == ("torch", 1.0)


def test_an_error_below_that_of_rounding_is_none():
    exact = {LARGE: {"torch": Measured(2.0, 0.0), "onednn": Measured(1.0, 5e-8)}}
    assert fastest({LARGE: 1}, exact) == ("onednn", 2.0)


def test_the_switch_is_put_back_after_an_error_too():
    setting = torch.backends.mkldnn.matmul
    error = KeyError()
    with onednn():
        assert setting.fp32_precision == "bf16"
        with pytest.raises(KeyError), onednn():
            raise error
        assert setting.fp32_precision == "bf16"
    assert setting.fp32_precision == "none"


@pytest.fixture
def able(monkeypatch):
    """A processor on which oneDNN can be taken, whatever this one is."""
    monkeypatch.setattr(products, "fault_of_processor", lambda: None)


@pytest.fixture
def precision():
    """Sets torch's own precision of products, for a while."""
    yield lambda value: setattr(torch.backends.mkldnn.matmul, "fp32_precision", value)
    torch.backends.mkldnn.matmul.fp32_precision = "none"


def test_there_is_a_choice_on_the_cpu_in_float32_alone(able, plain_ways):
    assert why_torch(True, "32-true") is None
    assert why_torch(False, "32-true") == "the run is not on the CPU"
    assert why_torch(True, "bf16-mixed") == "trainer.precision is bf16-mixed"
    with plain_ways():
        assert why_torch(True, "32-true") == "RL_LIGHTNING_FAST is 0"


@pytest.mark.parametrize("value", ["ieee", "bf16"])
def test_a_precision_that_the_user_has_set_is_left_alone(able, precision, value):
    precision(value)
    assert why_torch(True, "32-true") == "the precision of torch's float32 products has been set"


def test_so_is_one_that_was_set_by_torchs_older_name(able):
    torch.set_float32_matmul_precision("high")
    try:
        assert why_torch(True, "32-true") is not None
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.mkldnn.matmul.fp32_precision = "none"


@pytest.fixture
def processor(monkeypatch):
    """Sets whether this processor has AVX-512, and what its products come to."""

    def is_one(avx512, ways):
        fault_of_processor.cache_clear()
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: avx512)
        monkeypatch.setattr(products, "WAYS", ways)

    yield is_one
    fault_of_processor.cache_clear()


def test_a_processor_without_avx512_has_no_choice_and_measures_nothing(processor):
    processor(False, {})
    assert fault_of_processor() == "this processor has no AVX-512"


def test_a_processor_that_would_multiply_in_bf16_has_no_choice(processor):
    processor(True, {"torch": nullcontext, "onednn": lambda: Time().passes(1.0, multiply=in_bf16)})
    assert fault_of_processor() == "oneDNN multiplies in bf16 on this processor"
    processor(True, {"torch": nullcontext, "onednn": nullcontext})
    assert fault_of_processor() is None


def test_other_values_of_the_variable_are_refused(monkeypatch):
    for value in ("auto", "torch", "onednn"):
        monkeypatch.setenv("RL_LIGHTNING_PRODUCTS", value)
        assert asked() == value
    monkeypatch.setenv("RL_LIGHTNING_PRODUCTS", "mkl")
    with pytest.raises(UsageError, match=r"^RL_LIGHTNING_PRODUCTS='mkl' is not allowed: give auto, torch or onednn$"):
        asked()


def test_onednn_is_refused_where_it_would_do_nothing(monkeypatch):
    monkeypatch.setenv("RL_LIGHTNING_PRODUCTS", "onednn")
    monkeypatch.setattr(products, "fault_of_processor", lambda: "this processor has no AVX-512")
    with pytest.raises(
        UsageError, match=r"^RL_LIGHTNING_PRODUCTS='onednn' .*: this processor has no AVX-512; give auto"
    ):
        check_asked(True, "32-true")
    monkeypatch.setattr(products, "fault_of_processor", lambda: None)
    check_asked(True, "32-true")
    with pytest.raises(UsageError, match=r"trainer.precision is bf16-mixed; give auto or torch$"):
        check_asked(True, "bf16-mixed")


def test_what_is_taken_without_measuring(monkeypatch):
    monkeypatch.setenv("RL_LIGHTNING_PRODUCTS", "auto")
    assert given(None, None) is None
    assert given("onednn", None) == "onednn"
    assert given("torch", None) == "torch"
    assert given("onednn", "this processor has no AVX-512") == "torch"
    for value in ("torch", "onednn"):
        monkeypatch.setenv("RL_LIGHTNING_PRODUCTS", value)
        assert given("torch", None) == given(None, None) == value


def test_results_that_are_to_be_the_same_each_time_depend_on_no_clock(monkeypatch):
    monkeypatch.setenv("RL_LIGHTNING_PRODUCTS", "auto")
    torch.use_deterministic_algorithms(True)
    try:
        assert given(None, None) == "torch"
        assert given("onednn", None) == "onednn"
    finally:
        torch.use_deterministic_algorithms(False)
