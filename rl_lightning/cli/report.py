"""What `fit` and `predict` print last: what was reached, where it lies, and how to go on from there."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

import torch
from lightning.pytorch import Trainer

from rl_lightning.cli.runs import Run
from rl_lightning.types import Episode


def report(run_dir: Path, trainer: Trainer, env_steps: int, result: Mapping[str, float] | None) -> str:
    """The lines, with paths of what there is and no others.

    Args:
        run_dir: the run's folder.
        trainer: that has run.
        env_steps: of the run.
        result: of the final evaluation; None where there was none.
    """
    run, program = Run(run_dir), program_name("rl-lightning")
    saved = run.checkpoints()
    lines = [_reached(trainer, env_steps, result), f"Run folder: {run_dir}"]
    lines.append(f"  look      column -s, -t < {quote(str(run_dir / 'metrics.csv'))} | less -S")
    if offline := " ".join(quote(str(path)) for path in sorted(run_dir.glob("wandb/offline-run-*"))):
        lines.append(f"  W&B       {program_name('wandb')} sync {offline}")
    if saved:
        total: int = trainer.datamodule.total_env_steps  # type: ignore[attr-defined]
        # a batch of many processes may have gone far beyond it
        more = f"--data.total_env_steps={2 * (total if env_steps < 2 * total else env_steps)}"
        config, best = quote(str(run.config)), quote(str(_best(trainer, saved)))
        lines.append(f"  resume    {program} resume {quote(str(run_dir))} {more}")
        lines.append(f"  evaluate  {program} test -c {config} --ckpt_path={best}")
    else:
        lines.append("No checkpoint was saved, so this is the last of the policy")
    return "\n".join(lines)


def save_episodes(episodes: Sequence[Episode], run_dir: Path | None) -> str:
    """Save recorded episodes as a list of dicts of tensors, and say where they are.

    Args:
        episodes: to be saved.
        run_dir: the folder that gets them; None where there is none, and nothing is saved.
    """
    if run_dir is None:
        return f"Recorded {len(episodes)} episodes, saved none: trainer.fast_dev_run leaves nothing behind"
    path = run_dir / "episodes.pt"
    torch.save([episode._asdict() for episode in episodes], path)
    return f"Recorded {len(episodes)} episodes: {path}\nRead them: torch.load({str(path)!r})"


def program_name(name: str) -> str:
    """How to call a program installed beside this one: by name where that finds it, else by its path."""
    installed = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if found is not None and Path(found).resolve() == installed.resolve():
        return name
    return quote(os.path.relpath(installed) if installed.is_relative_to(Path.cwd()) else str(installed))


def decimals(*returns: float) -> int:
    """Places after the point for returns that stand together: one, and two or three where all are small."""
    largest = max(map(abs, returns))
    return 3 if largest < 1.0 else 2 if largest < 10.0 else 1


def _reached(trainer: Trainer, env_steps: int, result: Mapping[str, float] | None) -> str:
    after = f"after {env_steps:,} environment steps"
    if result is None:
        return f"Trained, and not evaluated at the end (trainer.limit_test_batches=0), {after}"
    episodes = trainer.datamodule.test_episodes  # type: ignore[attr-defined]
    mean, deviation = result["test/return_mean"], result["test/return_std"]
    places = decimals(mean, deviation)
    return f"Return {mean:.{places}f} ± {deviation:.{places}f} over {episodes} episodes of the final policy, {after}"


def _best(trainer: Trainer, saved: list[Path]) -> Path:
    """The checkpoint of the best evaluation, else the newest."""
    monitoring = [callback for callback in trainer.checkpoint_callbacks if getattr(callback, "monitor", None)]
    best = {Path(getattr(callback, "best_model_path", "")).resolve() for callback in monitoring}
    named = [path for path in saved if path.resolve() in best]
    return next(iter([*named, *(path for path in saved if path.stem != "last"), *saved]))
