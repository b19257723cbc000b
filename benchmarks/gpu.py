"""Environment steps per second on a GPU, how busy it is, and its memory: ours, three ways, beside Stable-Baselines3.

    python -m benchmarks.gpu --output OUT.json
    python -m benchmarks.gpu --device=cpu --smoke  # tries the program where there is no GPU; its figures mean nothing

One environment each: SAC (with a learned temperature), TD3 and PPO on HalfCheetah-v5 with the settings of
`benchmarks.off_policy` and `benchmarks.on_policy`, DQN on Pong from images with those of `benchmarks.atari`. Ours runs
eagerly, compiled, and compiled with CUDA graphs. Each run is a fresh process, one after the other. The report is
written after every one, so what a time limit cuts off is the rest alone; a run that fails is in it with its error.

Steps per second are the median over windows after a warm-up, which has the compilation in it. The share of time that
the GPU is busy: in some more steps torch's profiler notes when kernels and copies run; how long they do for a step,
times the steps per second without the profiler, is the share. Memory is the most that torch has reserved, with the
pools of CUDA graphs.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from stable_baselines3.common.callbacks import BaseCallback
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import atari, off_policy, on_policy
from benchmarks.report import describe_machine, markdown_table, run_fresh
from benchmarks.throughput import Marks, fit, rate
from rl_lightning.fast.switch import OF_CUDA_GRAPHS

VARIANTS = {"sb3": "0", "eager": "0", "compiled": "0", "cuda-graphs": "1"}  # and whether CUDA graphs are on
WINDOWS = 5


class Length(NamedTuple):
    """Of a run, in environment steps."""

    warmup: int  # random steps among them
    timed: int
    profiled: int


# whole training batches of each
LENGTHS = {
    "sac-halfcheetah": Length(1_500, 2_000, 200),
    "td3-halfcheetah": Length(1_500, 2_000, 200),
    "ppo-halfcheetah": Length(4_096, 8_192, 2_048),
    "dqn-pong": Length(2_000, 4_000, 400),
}
SHORT = {
    "sac-halfcheetah": Length(1_100, 200, 100),
    "td3-halfcheetah": Length(1_100, 200, 100),
    "ppo-halfcheetah": Length(2_048, 4_096, 2_048),
    "dqn-pong": Length(1_100, 200, 100),
}


class Busy:
    """How long a GPU is at work for an environment step, noted from some step of a run to its end.

    Args:
        start: environment steps.
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self._profile: profile | None = None
        self._first = self._last = 0

    def note(self, env_steps: int) -> None:
        """So many environment steps have been taken, and learned from."""
        if self._profile is not None:
            self._last = env_steps
        elif env_steps >= self.start and torch.cuda.is_available():
            torch.cuda.synchronize()
            self._first = env_steps
            self._profile = profile(activities=[ProfilerActivity.CUDA])
            self._profile.start()

    def seconds_per_step(self) -> float | None:
        """At work, kernels and copies that overlap counted once; None where nothing was noted."""
        if self._profile is None or self._last == self._first:
            return None
        torch.cuda.synchronize()
        self._profile.stop()
        ranges = [e.time_range for e in self._profile.events() or () if e.device_type == DeviceType.CUDA]
        at_work = union((r.start, r.end) for r in ranges) / 1e6  # it counts in microseconds
        return at_work / (self._last - self._first) if ranges else None


def union(ranges: Iterable[tuple[float, float]]) -> float:
    """The length of all ranges together, where they overlap counted once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(ranges):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


class OurBusy(Callback):
    """`Busy` in Lightning's Trainer."""

    def __init__(self, busy: Busy) -> None:
        self.busy = busy

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """After learning from the batch."""
        self.busy.note(pl_module.env_steps)  # type: ignore[arg-type]


class SB3Busy(BaseCallback):
    """`Busy` in Stable-Baselines3."""

    def __init__(self, busy: Busy) -> None:
        super().__init__()
        self.busy = busy

    def _on_rollout_start(self) -> None:
        self.busy.note(self.num_timesteps)

    def _on_step(self) -> bool:
        return True


def run(name: str, variant: str, device: str, length: Length, busy: Busy) -> Marks:
    """Train a task one way."""
    compile, accelerator = variant != "eager", "gpu" if device == "cuda" else device
    timed = length.timed + length.profiled
    if name == "dqn-pong":
        of_atari = atari.Length(off_policy.LEARNING_STARTS, length.warmup, timed)
        if variant == "sb3":
            return atari.run_sb3(of_atari, device, [SB3Busy(busy)]).marks
        return fit(*atari.make_ours(of_atari, compile), [OurBusy(busy)], accelerator)
    module: Any = on_policy if name in on_policy.TASKS else off_policy
    module.TASKS[name] = module.TASKS[name]._replace(warmup=length.warmup, steps=timed)  # of this process
    if variant == "sb3":
        marks: Marks = module.run_sb3(name, device, [SB3Busy(busy)])
        return marks
    return fit(*module.make_ours(name, compile), [OurBusy(busy)], accelerator)


def measure(name: str, variant: str, device: str, length: Length) -> dict[str, Any]:
    """Of one run in this process."""
    started = time.perf_counter()
    busy = Busy(length.warmup + length.timed)
    marks = run(name, variant, device, length, busy)
    timed = [mark for mark in marks if length.warmup <= mark[0] <= length.warmup + length.timed]
    ends = [timed[round(i * (len(timed) - 1) / WINDOWS)] for i in range(WINDOWS + 1)]
    windows = [rate([one, other], 0) for one, other in pairwise(dict.fromkeys(ends))]
    speed, at_work = statistics.median(windows), busy.seconds_per_step()
    return {
        "steps_per_second": speed,
        "windows": windows,
        "gpu_seconds_per_step": at_work,
        "gpu_busy_share": None if at_work is None else at_work * speed,
        "peak_bytes": torch.cuda.max_memory_reserved() if device == "cuda" else None,
        "seconds": time.perf_counter() - started,
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """All of it in Markdown."""
    rows = []
    for name, variants in results.items():
        sb3 = variants.get("sb3", {}).get("steps_per_second")
        for variant, found in variants.items():
            if "error" in found:
                rows.append((name, variant, found["error"], "", "", ""))
                continue
            speed, share, memory = (found[key] for key in ("steps_per_second", "gpu_busy_share", "peak_bytes"))
            rows.append(
                (
                    name,
                    variant,
                    speed,
                    f"{speed / sb3:.2f}" if sb3 else "",
                    "" if share is None else f"{100 * share:.0f} %",
                    "" if memory is None else f"{memory / 2**20:.0f} MiB",
                )
            )
    return markdown_table(["task", "way", "steps/s", "times SB3", "GPU busy", "GPU memory"], rows)


def main() -> None:
    """Measure every task every way, each in a fresh process, and report after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(LENGTHS), default=list(LENGTHS))
    parser.add_argument("--ways", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--threads", type=int, default=4, help="of torch on the CPU, in all runs")
    parser.add_argument("--smoke", action="store_true", help="short runs: does everything work?")
    parser.add_argument("--output", type=Path, help="write the figures to this file, as JSON")
    parser.add_argument("--here", action="store_true", help="run the first task the first way in this process")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("benchmarks.gpu: --device=cuda is not allowed: there is no CUDA device; give cpu to try the program")
    lengths = SHORT if arguments.smoke else LENGTHS
    if arguments.here:
        torch.set_num_threads(arguments.threads)
        name, way = arguments.tasks[0], arguments.ways[0]
        print("\n" + json.dumps(measure(name, way, arguments.device, lengths[name])))
        return
    gpu = torch.cuda.get_device_name() if arguments.device == "cuda" else "none: these figures mean nothing"
    machine = f"GPU: {gpu}, CUDA {torch.version.cuda}; {describe_machine()}; {arguments.threads} threads"
    results: dict[str, dict[str, Any]] = {name: {} for name in arguments.tasks}
    for name in arguments.tasks:
        for way in arguments.ways:
            options = [f"--tasks={name}", f"--ways={way}", f"--device={arguments.device}", "--here"]
            options += [f"--threads={arguments.threads}", *(["--smoke"] if arguments.smoke else [])]
            try:
                found = run_fresh("benchmarks.gpu", options, arguments.threads, {OF_CUDA_GRAPHS: VARIANTS[way]})
            except RuntimeError as error:
                found = {"error": str(error).strip().splitlines()[-1]}
                print(error, file=sys.stderr)
            results[name][way] = found
            print(f"{name}, {way}: {found.get('steps_per_second', found.get('error'))}", flush=True)
            if arguments.output is not None:
                arguments.output.parent.mkdir(parents=True, exist_ok=True)
                arguments.output.write_text(json.dumps({"machine": machine, "tasks": results}, indent=2) + "\n")
    print("\n".join(["", machine, "", table(results)]))


if __name__ == "__main__":
    main()
