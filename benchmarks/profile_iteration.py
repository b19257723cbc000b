"""Where an iteration's time goes: our SAC on HalfCheetah-v5 under Lightning's Trainer, as in `benchmarks.halfcheetah`.

An iteration is one minibatch, one gradient step, one environment step. In a real `Trainer.fit`, the functions below are
wrapped with `time.perf_counter_ns` (about 0.1 µs a call); after `--warmup` iterations their times are summed over
`--steps` iterations. Nested calls count once, for the inner function. What no wrapper saw is "the rest": Lightning, its
loops and logger, our callbacks, the progress bar, and moving data between numpy and torch.

    gradients    `SAC.gradients` as compiled, with the guards that torch checks on each call
    optimizers   `FusedAdam.step` of the three optimizers
    target       the Polyak average of the target network
    environment  the environment that `gymnasium.make` returns: physics, and Gymnasium's time limit and order checks
    policy       `SAC.act` for one observation
    sampling     `ReplayBuffer.sample`
    adding       `ReplayBuffer.add`
    vector env   our checks around the environment, and Gymnasium's vector of one

The overhead that has to stay under 10% is everything but gradients, optimizers, target, environment and policy.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.halfcheetah import run_ours
from benchmarks.report import describe_machine, markdown_table, publish
from rl_lightning import EnvironmentInteraction, PolyakAveraging

NEEDED = ("gradients", "optimizers", "target", "environment", "policy")  # whoever wrote the loop would pay these
OVERHEAD = ("sampling", "adding", "vector env", "the rest")


class IterationProfiler(Callback):
    """Wraps the functions that an iteration consists of, and sums the time spent in each.

    Args:
        warmup: training batches before the sums start.
        iterations_per_batch: iterations in each of them.

    Attributes:
        nanoseconds: in each part, nested calls counted for the inner one.
        total_nanoseconds: of all timed iterations.
        iterations: timed.
    """

    def __init__(self, warmup: int, iterations_per_batch: int = 1) -> None:
        self.warmup, self.iterations_per_batch = warmup, iterations_per_batch
        self.nanoseconds = dict.fromkeys((*NEEDED, *OVERHEAD[:-1]), 0)
        self.total_nanoseconds = self.iterations = 0
        self._nested = [0]  # time spent in wrapped calls inside of each open one

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Wrap everything before the first iteration, when all of it exists."""
        if batch_idx == 0:
            self._wrap_all(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Begin with the end of the warm-up; count every iteration after it."""
        if batch_idx + 1 <= self.warmup:
            self.nanoseconds = dict.fromkeys(self.nanoseconds, 0)
            self._started = time.perf_counter_ns()
        else:
            self.iterations += self.iterations_per_batch
            self.total_nanoseconds = time.perf_counter_ns() - self._started
            self.measured = dict(self.nanoseconds)

    def microseconds(self) -> dict[str, float]:
        """Of each part, in an average iteration; "the rest" completes the total."""
        rest = self.total_nanoseconds - sum(self.measured.values())
        return {part: ns / 1e3 / self.iterations for part, ns in {**self.measured, OVERHEAD[-1]: rest}.items()}

    def _wrap_all(self, trainer: Any, model: LightningModule) -> None:
        interaction = next(c for c in trainer.callbacks if isinstance(c, EnvironmentInteraction))
        averaging = next(c for c in trainer.callbacks if isinstance(c, PolyakAveraging))
        envs: Any = interaction._envs
        self._wrap(model, "_gradients", "gradients")
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


def overhead_share(microseconds: dict[str, float]) -> float:
    """The part of an iteration that is neither learning nor acting, in [0, 1]."""
    return sum(microseconds[part] for part in OVERHEAD) / sum(microseconds.values())


def report(microseconds: dict[str, float], threads: int, iterations: int, train_freq: int) -> str:
    """All of it in Markdown."""
    total = sum(microseconds.values())
    rows = [(part, f"{us:.0f}", f"{us / total:.1%}") for part, us in microseconds.items()]
    return "\n\n".join(
        [
            "# Where an iteration's time goes: SAC on HalfCheetah-v5",
            describe_machine(),
            f"Mean of {iterations} iterations of {train_freq} environment and gradient steps, {threads} torch threads; "
            "compilation is excluded.",
            markdown_table(["part", "µs", "share"], [*rows, ("total", f"{total:.0f}", "100%")]),
            f"Overhead ({', '.join(OVERHEAD)}): {overhead_share(microseconds):.1%} of an iteration; "
            "the goal is under 10%.",
        ]
    )


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
    axes.set(yticks=[], xlabel="µs in an iteration (hatched: overhead)", xlim=(0, total))
    figure.legend(loc="outside upper center", ncols=5, frameon=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150)


def main() -> None:
    """Run, report, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5_000, help="iterations timed")
    parser.add_argument("--warmup", type=int, default=300, help="iterations before them")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--train-freq", type=int, default=1, help="environment and gradient steps in one iteration")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--output", type=Path, help="write the bar to this PNG, and the report beside it as .md")
    parser.add_argument("--smoke", action="store_true", help="a short run: does everything work?")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.steps, arguments.warmup = 300, 100
    torch.set_num_threads(arguments.threads)
    per_batch = max(1, 100 // arguments.train_freq)
    profiler = IterationProfiler(arguments.warmup // per_batch, per_batch)
    steps = (arguments.warmup + arguments.steps) * arguments.train_freq
    run_ours(
        steps,
        arguments.precision,
        [profiler],
        train_freq=arguments.train_freq,
        env_steps_per_batch=per_batch * arguments.train_freq,
    )
    microseconds = profiler.microseconds()
    text = report(microseconds, arguments.threads, profiler.iterations, arguments.train_freq)
    publish(text, arguments.output.with_suffix(".md") if arguments.output else None)
    if arguments.output:
        plot(microseconds, arguments.output)


if __name__ == "__main__":
    main()
