"""Environment steps per second: our SAC under Lightning's Trainer against Stable-Baselines3's SAC, HalfCheetah-v5.

What runs is described in `benchmarks.halfcheetah`. The two alternate, each in a fresh process, with the same number of
torch threads; a pair gives one ratio, ours / theirs. Time is taken inside the process, over `--steps` environment steps
(each with one gradient step) that follow the random steps and `--warmup` gradient steps. So starting Python, compiling
the gradients and filling the buffer are excluded, on both sides; evaluation and checkpoints are too.

With `--precision bf16-mixed` ours uses bf16 autocast and is compared with Stable-Baselines3's float32: it has no other.
On a CPU without native bf16 that is slower than float32; the report says which CPU it was. The table of successive
windows shows that the time per step does not grow over a run.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.report import describe_machine, markdown_table, publish, run_fresh, summarize


@dataclass(frozen=True)
class Pair:
    """One run of ours and one of Stable-Baselines3's, in steps per second."""

    ours: float
    sb3: float
    windows: list[float]  # of ours

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.ours / self.sb3

    @property
    def last_to_first(self) -> float:
        """Speed in the last window of our run relative to the first; 1 means that it did not slow down."""
        return self.windows[-1] / self.windows[0]


Setting = tuple[int, str]  # threads, our precision


def measure(
    library: str, setting: Setting, steps: int, warmup: int, windows: int, train_freq: int, env_steps_per_batch: int
) -> tuple[float, list[float]]:
    """Steps per second of one run, over all steps and in each window."""
    threads, precision = setting
    options = {"threads": threads, "precision": precision, "steps": steps, "warmup": warmup, "windows": windows}
    options |= {"train-freq": train_freq, "env-steps-per-batch": env_steps_per_batch}
    arguments = [f"--library={library}", *(f"--{name}={value}" for name, value in options.items())]
    result = run_fresh("benchmarks.halfcheetah", arguments, threads)
    return result["steps_per_second"], result["windows"]


def report(pairs: dict[Setting, list[Pair]], steps: int, warmup: int, train_freq: int) -> str:
    """All of it in Markdown."""
    each = [
        (*setting, number, pair.ours, pair.sb3, f"{pair.ratio:.2f}")
        for setting, measured in pairs.items()
        for number, pair in enumerate(measured, 1)
    ]
    overall = [
        (
            *setting,
            summarize([p.ours for p in measured]),
            summarize([p.sb3 for p in measured]),
            summarize([p.ratio for p in measured]),
        )
        for setting, measured in pairs.items()
    ]
    windows = [
        (*setting, number, " ".join(f"{rate:.0f}" for rate in pair.windows), f"{pair.last_to_first:.2f}")
        for setting, measured in pairs.items()
        for number, pair in enumerate(measured, 1)
    ]
    return "\n\n".join(
        [
            "# SAC on HalfCheetah-v5: environment steps per second, ours against Stable-Baselines3",
            describe_machine(),
            f"{train_freq} environment steps, then as many gradient steps. "
            f"{steps} steps timed in each run, after 1,000 random steps and {warmup} gradient steps: compile time is "
            "excluded. Ours in the precision given, Stable-Baselines3 always in float32. Median [minimum, maximum].",
            markdown_table(["threads", "precision", "ours", "SB3", "ours / SB3"], overall),
            "Each pair:",
            markdown_table(["threads", "precision", "pair", "ours", "SB3", "ours / SB3"], each),
            "Our steps per second in successive windows of equal length:",
            markdown_table(["threads", "precision", "pair", "windows", "last / first"], windows),
        ]
    )


def main() -> None:
    """Measure every setting and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2_000, help="environment steps timed in each run")
    parser.add_argument("--warmup", type=int, default=300, help="gradient steps before them")
    parser.add_argument("--windows", type=int, default=10, help="parts of the timed steps, compared with each other")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--precision", nargs="+", choices=["32-true", "bf16-mixed"], default=["32-true"])
    parser.add_argument("--train-freq", type=int, default=1, help="environment steps, then as many gradient steps")
    parser.add_argument("--env-steps-per-batch", type=int, default=100, help="of ours: Lightning's training batch")
    parser.add_argument("--output", type=Path, help="also write the report to this file")
    parser.add_argument("--smoke", action="store_true", help="one short pair: does everything work?")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.pairs, arguments.steps, arguments.warmup, arguments.threads = 1, 100, 20, [1]
        arguments.env_steps_per_batch = 10
    if arguments.steps % arguments.windows or arguments.warmup < 1:
        parser.error("give a --steps that --windows divides, and a --warmup of at least 1")

    settings = [(threads, precision) for precision in arguments.precision for threads in arguments.threads]
    pairs: dict[Setting, list[Pair]] = {setting: [] for setting in settings}
    with tqdm(total=2 * arguments.pairs * len(settings), unit="run") as bar:
        for _ in range(arguments.pairs):
            for setting in settings:
                measured = {}
                for library in ("ours", "sb3"):
                    bar.set_description(f"{library}, threads {setting[0]}, {setting[1]}")
                    measured[library] = measure(
                        library,
                        setting,
                        arguments.steps,
                        arguments.warmup,
                        arguments.windows,
                        arguments.train_freq,
                        arguments.env_steps_per_batch,
                    )
                    bar.update()
                pairs[setting].append(Pair(measured["ours"][0], measured["sb3"][0], measured["ours"][1]))
    publish(report(pairs, arguments.steps, arguments.warmup, arguments.train_freq), arguments.output)


if __name__ == "__main__":
    main()
