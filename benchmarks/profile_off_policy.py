"""Where the time of an environment step goes: ours under Lightning's Trainer, and the products it cannot do without.

    python -m benchmarks.profile_off_policy td3-halfcheetah

The tasks are those of `benchmarks.off_policy`, and `sac`, which is Algorithm 4's with V as in `benchmarks.halfcheetah`
(`sac-32`: 32 environment steps, then 32 gradient steps). In a real `Trainer.fit`, the functions below are wrapped with
`time.perf_counter_ns` (about 0.1 µs a call); after the warm-up their times are summed. Nested calls count once, for the
inner function. What no wrapper saw is "the rest": Lightning, its loops and logger, our callbacks, the progress bar, and
moving data between numpy and torch.

    gradients    the learner's `compute_gradients`: compiled, with the guards that torch checks on each call
    optimizers   `FusedAdam.step` of every optimizer
    target       the update of the target networks
    environment  the environment that `gymnasium.make` returns: physics, and Gymnasium's time limit and order checks
    policy       the learner's `act` for one observation
    sampling     `ReplayBuffer.sample`
    adding       `ReplayBuffer.add`
    vector env   our checks around the environment, and Gymnasium's vector of one

Everything but gradients, optimizers, target, environment and policy is overhead. The floor is what the matrix products
of `gradients` take when nothing else happens: they are recorded in an eager run, and repeated on warm memory.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.halfcheetah import LEARNING_STARTS, run_ours
from benchmarks.off_policy import TASKS, make_ours
from benchmarks.report import describe_machine, markdown_table, publish, summarize
from benchmarks.throughput import fit
from rl_lightning import Algorithm, PolyakAveraging

NEEDED = ("gradients", "optimizers", "target", "environment", "policy")  # whoever wrote the loop would pay these
OVERHEAD = ("sampling", "adding", "vector env", "the rest")
SAC = {"sac": 1, "sac-32": 32}  # train_freq
SAC_WARMUP, SAC_STEPS = 500, 2_000  # environment steps after the random ones


class StepProfiler(Callback):
    """Wraps the functions that an environment step consists of, and sums the time spent in each.

    Args:
        warmup: environment steps before the sums start.

    Attributes:
        nanoseconds: in each part, nested calls counted for the inner one.
        total_nanoseconds: of all timed steps.
        env_steps: timed.
    """

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup
        self.nanoseconds = dict.fromkeys((*NEEDED, *OVERHEAD[:-1]), 0)
        self.total_nanoseconds = self.env_steps = 0
        self._nested = [0]  # time spent in wrapped calls inside of each open one
        self._started: tuple[int, int] | None = None  # time, and environment steps

    def on_train_batch_start(self, trainer: Trainer, pl_module: Algorithm, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        """Wrap everything before the first step, when all of it exists."""
        if batch_idx == 0:
            self._wrap_all(trainer, pl_module)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: Algorithm, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Begin with the end of the warm-up; count every step after it."""
        now = time.perf_counter_ns()
        if self._started is not None:
            self.env_steps = pl_module.env_steps - self._started[1]
            self.total_nanoseconds = now - self._started[0]
            self.measured = dict(self.nanoseconds)
        elif pl_module.env_steps >= self.warmup:
            self.nanoseconds = dict.fromkeys(self.nanoseconds, 0)
            self._started = now, pl_module.env_steps

    def microseconds(self) -> dict[str, float]:
        """Of each part, in an average environment step; "the rest" completes the total."""
        rest = self.total_nanoseconds - sum(self.measured.values())
        return {part: ns / 1e3 / self.env_steps for part, ns in {**self.measured, OVERHEAD[-1]: rest}.items()}

    def _wrap_all(self, trainer: Any, model: Algorithm) -> None:
        averaging = next(c for c in trainer.callbacks if isinstance(c, PolyakAveraging))
        envs = trainer.datamodule.collector._envs
        self._wrap(model, "compute_gradients", "gradients")
        for optimizer in trainer.optimizers:
            self._wrap(optimizer, "step", "optimizers")
        self._wrap(averaging, "on_gradient_step_end", "target")
        model.on_train_start()  # when the learner had looked them up
        self._wrap(model, "act", "policy")
        self._wrap(envs, "step", "vector env")
        for checked in envs.envs:
            self._wrap(checked.env, "step", "environment")
        self._wrap(trainer.datamodule.buffer, "sample", "sampling")
        self._wrap(trainer.datamodule.buffer, "add", "adding")

    def _wrap(self, owner: Any, name: str, part: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._nested.append(0)
            start = time.perf_counter_ns()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = time.perf_counter_ns() - start
                self.nanoseconds[part] += elapsed - self._nested.pop()
                self._nested[-1] += elapsed

        setattr(owner, name, timed)


Product = tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]
"""Shape and strides of the left, then of the right matrix."""


class ProductRecorder(Callback):
    """Notes the matrix products of the gradients of the first training batch, and stops the run after it.

    Attributes:
        products: how often each.
        env_steps: that they are for.
    """

    def __init__(self) -> None:
        self.products: Counter[Product] = Counter()
        self.env_steps = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: Algorithm, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        """Watch the gradients."""
        compute, mode = pl_module.compute_gradients, _Products(self.products)

        def watched(*minibatch: Any) -> Any:
            with mode:
                return compute(*minibatch)

        pl_module.compute_gradients = watched  # type: ignore[method-assign]
        self.env_steps = -pl_module.env_steps

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: Algorithm, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One batch is enough."""
        self.env_steps += pl_module.env_steps
        trainer.should_stop = True

    def microseconds(self, repeats: int = 100) -> float:
        """Of the products alone, for an environment step: each repeated, with its matrices in the cache."""
        total = 0.0
        for (left_shape, left_strides, right_shape, right_strides), count in self.products.items():
            left = torch.empty_strided(left_shape, left_strides).fill_(0.5)
            right = torch.empty_strided(right_shape, right_strides).fill_(0.5)
            out = left @ right
            times = []
            for _ in range(repeats):
                start = time.perf_counter_ns()
                torch.mm(left, right, out=out)
                times.append((time.perf_counter_ns() - start) / 1e3)
            total += count * summarize(times).median
        return total / self.env_steps

    def per_env_step(self, size: tuple[int, int, int] | None = None) -> float:
        """How many products there are, or of one size (rows, inner, columns)."""
        counted = (count for product, count in self.products.items() if size in (None, _size(product)))
        return sum(counted) / self.env_steps


def _size(product: Product) -> tuple[int, int, int]:
    left, _, right, _ = product
    return left[0], left[1], right[1]


class _Products(TorchDispatchMode):
    def __init__(self, products: Counter[Product]) -> None:
        super().__init__()
        self.products = products

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            left, right = (matrix for matrix in args if isinstance(matrix, Tensor) and matrix.ndim == 2)
            self.products[(*left.shape,), left.stride(), (*right.shape,), right.stride()] += 1
        return func(*args, **(kwargs or {}))


def train(name: str, callback: Callback, compile: bool = True) -> None:
    """Run the task with a callback."""
    if name in SAC:
        steps = SAC_WARMUP + SAC_STEPS
        run_ours(steps, "32-true", [callback], compile=compile, train_freq=SAC[name], env_steps_per_batch=96)
    else:
        fit(*make_ours(name, compile), [callback], precision=TASKS[name].precision)


def overhead_share(microseconds: dict[str, float]) -> float:
    """The part of an environment step that is neither learning nor acting, in [0, 1]."""
    return sum(microseconds[part] for part in OVERHEAD) / sum(microseconds.values())


def report(name: str, microseconds: dict[str, float], env_steps: int, recorder: ProductRecorder) -> str:
    """All of it in Markdown."""
    total = sum(microseconds.values())
    rows = [(part, f"{us:.0f}", f"{us / total:.1%}") for part, us in microseconds.items()]
    products = recorder.microseconds()
    return "\n\n".join(
        [
            f"# Where the time of an environment step goes: {name}",
            describe_machine(),
            f"Mean of {env_steps} environment steps, one thread; compilation is excluded.",
            markdown_table(["part", "µs", "share"], [*rows, ("total", f"{total:.0f}", "100%")]),
            f"Overhead ({', '.join(OVERHEAD)}): {overhead_share(microseconds):.1%}.",
            f"The matrix products alone: {products:.0f} µs, {products / total:.1%}; {_described(recorder)}.",
        ]
    )


def _described(recorder: ProductRecorder) -> str:
    largest = max(map(_size, recorder.products), key=lambda size: size[0] * size[1] * size[2])
    of_largest = recorder.per_env_step(largest)
    rest = recorder.per_env_step() - of_largest
    return f"{of_largest:.2f} of {'x'.join(map(str, largest))} and {rest:.2f} smaller ones"


def plot(microseconds: dict[str, float], output: Path) -> None:
    """A horizontal stacked bar, one segment for each part."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    total, left = sum(microseconds.values()), 0.0
    figure, axes = plt.subplots(figsize=(10, 2.4), layout="constrained")
    for part, us in microseconds.items():
        axes.barh([0], [us], left=left, label=f"{part} {us / total:.1%}", hatch="//" if part in OVERHEAD else None)
        left += us
    axes.set(yticks=[], xlabel="µs in an environment step (hatched: overhead)", xlim=(0, total))
    figure.legend(loc="outside upper center", ncols=5, frameon=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150)


def main(argv: Sequence[str] | None = None) -> None:
    """Run, report, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=[*SAC, *TASKS])
    parser.add_argument("--output", type=Path, help="write the bar to this PNG, and the report beside it as .md")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    recorder = ProductRecorder()
    train(arguments.task, recorder, compile=False)
    profiler = StepProfiler(LEARNING_STARTS + SAC_WARMUP if arguments.task in SAC else TASKS[arguments.task].warmup)
    train(arguments.task, profiler)
    microseconds = profiler.microseconds()
    text = report(arguments.task, microseconds, profiler.env_steps, recorder)
    publish(text, arguments.output.with_suffix(".md") if arguments.output else None)
    if arguments.output:
        plot(microseconds, arguments.output)


if __name__ == "__main__":
    main()
