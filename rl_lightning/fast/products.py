"""Which library multiplies float32 matrices on the CPU: the fastest on a run's own products, of those as precise.

torch calls MKL, which takes kernels for AVX2 on processors of other makers, those with AVX-512 too. oneDNN has kernels
for AVX-512, but a call into it costs more, so that small products are slower. The public switch that leads to it reads
"bf16" and is read by torch at every product: eager, compiled, batched, and of backward passes. It allows bf16 and does
not ask for it: only a processor with AMX multiplies in it, the others stay in float32. So errors are measured too.
"""

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rl_lightning.errors import require
from rl_lightning.fast import switch

VARIABLE = "RL_LIGHTNING_PRODUCTS"
TORCH, ONEDNN = "torch", "onednn"
MARGIN = 1.1  # how many times as fast another library has to be; a smaller gain is not worth other last digits
ALLOWED_ERROR = 4.0  # times torch's own: adding in another order alone makes 2.3, bf16 ten thousand
LEAST_ERROR = torch.finfo(torch.float32).eps / 2  # of rounding once, below which nothing is compared
ROUNDS, TURN = 10, 3  # times that each library has its turn, and products in one turn
ENOUGH = 0.01  # seconds for one product, after which three rounds do

_MATMUL: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # made at run time

Ways = Mapping[str, Callable[[], AbstractContextManager[None]]]
"""Contexts, by name, in which torch's products are of one library."""


@contextmanager
def onednn() -> Iterator[None]:
    """Inside, torch gives float32 products of matrices to oneDNN, where the processor has AVX-512."""
    before = _MATMUL.fp32_precision
    _MATMUL.fp32_precision = "bf16"
    try:
        yield
    finally:
        _MATMUL.fp32_precision = before


WAYS: Ways = {TORCH: nullcontext, ONEDNN: onednn}


class Product(NamedTuple):
    """A product of float32 matrices, as torch is asked for it.

    Attributes:
        op: `mm`, `addmm`, `bmm` or `baddbmm`.
        layouts: shape and strides of each tensor that goes in.
    """

    op: str
    layouts: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]

    def operands(self) -> list[Tensor]:
        """Tensors of these layouts with normal numbers, always the same; torch's own generator is left alone."""
        generator = torch.Generator().manual_seed(0)
        made = []
        for shape, strides in self.layouts:
            length = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
            made.append(torch.randn(length, generator=generator).as_strided(shape, strides))
        return made


class Measured(NamedTuple):
    """What a product costs in one library.

    Attributes:
        seconds: the shortest time.
        error: ‖found − exact‖ / ‖exact‖ in the Frobenius norm, exact being the product in float64.
    """

    seconds: float
    error: float


_OPS = {
    torch.ops.aten.mm.default: "mm",
    torch.ops.aten.addmm.default: "addmm",
    torch.ops.aten.bmm.default: "bmm",
    torch.ops.aten.baddbmm.default: "baddbmm",
}


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, products: Counter[Product]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products = products

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _OPS and all(tensor.dtype == torch.float32 and tensor.numel() for tensor in args):
            layouts = tuple(((*tensor.shape,), tensor.stride()) for tensor in args)
            self.products[Product(_OPS[func], layouts)] += 1
        return func(*args, **(kwargs or {}))


def products_of(function: Callable[..., object], args: Iterable[Any], buffers: Iterable[Tensor]) -> Counter[Product]:
    """How often each product is asked for, in backward passes too, when a function is called eagerly.

    Args:
        function: called once; what it returns is thrown away.
        args: that it is called with.
        buffers: what it may change (a BatchNorm's statistics), and is put back. So are torch's random numbers.
    """
    products: Counter[Product] = Counter()
    kept = [(buffer, buffer.clone()) for buffer in buffers]
    with torch.random.fork_rng(devices=[]), _Recorder(products):
        function(*args)
    with torch.no_grad():
        for buffer, before in kept:
            buffer.copy_(before)
    return products


def measure(product: Product, ways: Ways, clock: Callable[[], float] = time.perf_counter) -> dict[str, Measured]:
    """Time and error of a product in each library, in turns, with its matrices in the cache.

    Args:
        product: to be measured.
        ways: the libraries.
        clock: seconds.
    """
    multiply, operands = getattr(torch, product.op), product.operands()
    exact = multiply(*(tensor.double() for tensor in operands))
    errors, best = {}, dict.fromkeys(ways, math.inf)
    for name, way in ways.items():
        with way():
            out = multiply(*operands)  # a library prepares a shape when it first meets it
        errors[name] = float((out.double() - exact).norm() / exact.norm())
    begun = clock()
    for rounds in range(1, ROUNDS + 1):
        for name, way in ways.items():
            with way():
                for _ in range(TURN):
                    start = clock()
                    multiply(*operands, out=out)
                    best[name] = min(best[name], clock() - start)
        if rounds >= 3 and clock() - begun > ENOUGH:
            break
    return {name: Measured(best[name], errors[name]) for name in ways}


def is_precise(measured: Mapping[str, Measured], name: str) -> bool:
    """Whether the library's error in a product is no more than four times torch's own."""
    return measured[name].error <= ALLOWED_ERROR * max(measured[TORCH].error, LEAST_ERROR)


def fastest(counts: Mapping[Product, int], measured: Mapping[Product, Mapping[str, Measured]]) -> tuple[str, float]:
    """The library to take for all of these products, and how many times as fast as torch's own it is.

    It is torch's own unless another is as precise in every product and, in all of them together, clearly faster.

    Args:
        counts: how often each.
        measured: of each, by library; torch's own is among them.
    """
    names = {name for each in measured.values() for name in each} | {TORCH}
    precise = [name for name in names if all(is_precise(each, name) for each in measured.values())]
    seconds = {
        name: sum(count * measured[product][name].seconds for product, count in counts.items()) for name in names
    }
    best = min(precise, key=lambda name: seconds[name])
    if best == TORCH or seconds[TORCH] < MARGIN * seconds[best]:
        return TORCH, 1.0
    return best, seconds[TORCH] / seconds[best]


def asked() -> str:
    """What the environment asks for: `auto`, `torch` or `onednn`.

    Raises:
        UsageError: another value.
    """
    value = os.environ.get(VARIABLE, "auto")
    require(value in ("auto", *WAYS), VARIABLE, value, "give auto, torch or onednn")
    return value


def why_torch(on_cpu: bool, precision: str | int | None) -> str | None:
    """Why a run can have no products but torch's own; None where it can.

    Args:
        on_cpu: whether it trains there.
        precision: of the trainer.
    """
    if not on_cpu:
        return "the run is not on the CPU"
    if str(precision).startswith("bf16"):
        return f"trainer.precision is {precision}"
    if not switch.is_on():
        return f"{switch.VARIABLE} is 0"
    if _MATMUL.fp32_precision != "none":
        return "the precision of torch's float32 products has been set"
    return fault_of_processor()


@cache
def fault_of_processor() -> str | None:
    """Why oneDNN cannot multiply in float32 on this processor by torch's switch; None where it can."""
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "this processor has no AVX-512"
    for size in (64, 256):
        square = ((size, size), (size, 1))
        if not is_precise(measure(Product("mm", (square, square)), WAYS), ONEDNN):
            return "oneDNN multiplies in bf16 on this processor"
    return None


def check_asked(on_cpu: bool, precision: str | int | None) -> None:
    """Refuse to ask for what a run cannot have.

    Args:
        on_cpu: whether it trains there.
        precision: of the trainer.

    Raises:
        UsageError: with the reason.
    """
    if asked() == ONEDNN:
        why = why_torch(on_cpu, precision)
        require(why is None, VARIABLE, ONEDNN, f"{why}; give auto or torch")


def given(recorded: str | None, why: str | None) -> str | None:
    """The library to take without measuring; None where it is to be measured.

    A run that goes on takes its own. Results that are to be the same each time are no matter of a clock.

    Args:
        recorded: what the run that goes on has taken so far; None at a start.
        why: there can be no other than torch's own.
    """
    if asked() != "auto":
        return asked()
    if why is not None:
        return TORCH
    if recorded is None and torch.are_deterministic_algorithms_enabled():
        return TORCH
    return recorded
