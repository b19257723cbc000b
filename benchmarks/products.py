"""What the matrix products of shipped networks take in each library that torch can give them to, and their errors.

    OMP_NUM_THREADS=1 python -m benchmarks.products

The products are those of one `gradients` of SAC, DQN and PPO with the networks and minibatches of their configs,
forward and backward, forms with a transposed matrix taken together. Each library has its turns, the shortest time
counts, with the matrices in the cache. Errors are relative, in the Frobenius norm, against float64.

    torch   torch's own way: MKL on x86
    onednn  oneDNN by torch's switch, which runs take where it is faster; it needs AVX-512
    linear  oneDNN by `torch.ops.mkldnn._linear_pointwise`, with what kernels this processor has
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import torch
import yaml
from torch import Tensor

from benchmarks.report import describe_machine, markdown_table, publish
from rl_lightning import DQN, MLP, PPO, SAC, Algorithm, Transition
from rl_lightning.algorithms.ppo import Samples
from rl_lightning.fast.products import ONEDNN, TORCH, WAYS, Measured, Product, fault_of_processor, measure, products_of

CONFIGS = Path(__file__).parents[1] / "configs"
FEATURES = ("avx2", "avx512_f", "avx512_bw", "avx512_vl", "avx512_dq", "avx512_bf16", "amx_bf16", "amx_fp16")
HALFCHEETAH = gym.spaces.Box(-1, 1, (17,)), gym.spaces.Box(-1, 1, (6,))
CARTPOLE = gym.spaces.Box(-1, 1, (4,)), gym.spaces.Discrete(2)
TURNS = 5  # of each library
Size = tuple[int, int, int]  # rows, inner, columns


def learners() -> dict[str, tuple[Algorithm, tuple[Any, ...]]]:
    """Each with what its `gradients` takes, random."""
    made: dict[str, tuple[Algorithm, tuple[Any, ...]]] = {}
    (obs, action), network, size = HALFCHEETAH, *_of("sac/halfcheetah")
    made["SAC, HalfCheetah"] = SAC(obs, action, network=network), (_transitions(size, 17, torch.rand(size, 6)),)
    (obs, action), network, size = CARTPOLE, *_of("dqn/cartpole")
    made["DQN, CartPole"] = DQN(obs, action, network=network), (_transitions(size, 4, torch.zeros(size).long()),)
    (obs, action), network, size = HALFCHEETAH, *_of("ppo/halfcheetah")
    flat = torch.randn(size)
    samples = Samples(torch.randn(size, 17), torch.randn(size, 6), flat, flat, flat, flat, {})
    ppo = PPO(obs, action, network=network)
    made["PPO, HalfCheetah"] = ppo, (samples, torch.tensor(0.2))
    return made


def _of(config: str) -> tuple[Callable[..., MLP], int]:
    """The body of the networks and the size of a minibatch."""
    settings = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text())
    model, data = (settings[part]["init_args"] for part in ("model", "data"))
    body = model["network"]["init_args"]
    network = partial(MLP, hidden_sizes=body["hidden_sizes"], activation=body["activation"])
    return network, model.get("batch_size") or data["batch_size"]


def _transitions(size: int, obs: int, action: Tensor) -> Transition:
    flat = torch.ones(size)
    return Transition(torch.randn(size, obs), action, flat, torch.randn(size, obs), flat.bool(), flat, flat)


def size_of(product: Product) -> Size:
    """Rows, inner and columns of a product of two matrices."""
    (left, _), (right, _) = product.layouts[-2:]
    return left[0], left[1], right[1]


def linear(product: Product, rounds: int = 10) -> Measured:
    """By oneDNN's linear layer."""
    *bias, left, right = product.operands()
    weight, added = right.t().contiguous(), bias[0] if bias else None

    def multiply() -> Tensor:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(left, weight, added, "none", [], ""))

    exact = left.double() @ right.double() + (added.double() if added is not None else 0.0)
    error = float((multiply().double() - exact).norm() / exact.norm())
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        multiply()
        times.append(time.perf_counter() - start)
    return Measured(min(times), error)


def rows(counts: Counter[Product], ways: Sequence[str]) -> list[list[object]]:
    """Of a table: one for each size, the mean over its forms."""
    found: dict[Size, list[tuple[int, dict[str, Measured]]]] = {}
    for product, count in counts.items():
        taken = {name: WAYS[name] for name in ways}
        turns = [measure(product, taken) | {"linear": linear(product)} for _ in range(TURNS)]
        shortest = {name: min(turn[name] for turn in turns) for name in turns[0]}
        found.setdefault(size_of(product), []).append((count, shortest))
    lines: list[list[object]] = []
    for size, forms in sorted(found.items(), key=lambda item: -item[0][0] * item[0][1] * item[0][2]):
        total = sum(count for count, _ in forms)
        line: list[object] = ["x".join(map(str, size)), total]
        for name in (*ways, "linear"):
            seconds = sum(count * each[name].seconds for count, each in forms) / total
            error = max(each[name].error for _, each in forms)
            flops = 2 * size[0] * size[1] * size[2] / seconds
            line.append(f"{seconds * 1e6:.1f} µs, {flops / 1e9:.1f} GFLOP/s, {error:.1e}")
        lines.append(line)
    return lines


def report() -> str:
    """All of it in Markdown."""
    capabilities = torch.cpu.get_capabilities()
    has = {True: [], False: []}  # type: dict[bool, list[str]]
    for name in FEATURES:
        has[bool(capabilities.get(name))].append(name)
    fault = fault_of_processor()
    ways = [TORCH] if fault else [TORCH, ONEDNN]
    switch = f"oneDNN by torch's switch is not there: {fault}." if fault else "oneDNN by torch's switch is there."
    parts = [
        f"{describe_machine()}; {torch.get_num_threads()} threads",
        f"The processor has {', '.join(has[True])}, it lacks {', '.join(has[False]) or 'none'}. {switch}",
    ]
    for name, (model, batch) in learners().items():
        counts = products_of(model.gradients, batch, model.buffers())
        parts += [f"## {name}", markdown_table(["size", "products", *ways, "linear"], rows(counts, ways))]
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write the report to this file")
    publish(report(), parser.parse_args(argv).output)


if __name__ == "__main__":
    main()
