"""What the benchmarks share: summaries, Markdown tables, the machine they ran on, and runs in fresh processes."""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # of x86, x86 and Arm


@dataclass(frozen=True)
class Summary:
    """Of repeated measurements."""

    median: float
    minimum: float
    maximum: float

    def __str__(self) -> str:
        return f"{_digits(self.median)} [{_digits(self.minimum)}, {_digits(self.maximum)}]"


def summarize(values: Sequence[float]) -> Summary:
    """Median, minimum and maximum of at least one value."""
    return Summary(statistics.median(values), min(values), max(values))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats get three significant digits."""
    lines = [header, ["---"] * len(header), *rows]
    cells = [[_digits(cell) if isinstance(cell, float) else str(cell) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def publish(text: str, output: Path | None) -> None:
    """Print the report, and write it to a file if one is asked for."""
    print(text)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n")


def describe_machine() -> str:
    """One line: the CPU's model, its cores, whether it multiplies bf16 natively, and the versions that matter."""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    model, flags = parse_cpuinfo(_read("/proc/cpuinfo"))
    native = [flag for flag in BF16_FLAGS if flag in flags]
    bf16 = f"native bf16 ({', '.join(native)})" if native else "no native bf16: bf16-mixed is emulated and slow here"
    return (
        f"CPU: {model or platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.backends.cpu.get_cpu_capability()}, {bf16}; {versions}"
    )


def parse_cpuinfo(text: str) -> tuple[str, set[str]]:
    """The first processor's model name and feature flags, from the text of Linux's /proc/cpuinfo."""
    fields = dict(reversed([(k.strip(), v.strip()) for k, _, v in (ln.partition(":") for ln in text.splitlines())]))
    return fields.get("model name", ""), set((fields.get("flags") or fields.get("Features") or "").split())


def run_fresh(
    module: str, arguments: Sequence[str], threads: int, variables: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run `python -m module arguments` in a process of its own; return the JSON object on its last line of output.

    Args:
        module: to be run.
        arguments: of its command line.
        threads: of OpenMP and MKL.
        variables: of its environment, besides those of this process.

    Raises:
        RuntimeError: where the process fails; the message ends with what it wrote.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **(variables or {})}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""
