"""Networks that rest while the others begin to learn."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from rl_lightning.errors import require


class Freeze(Callback):
    """Parts of a learner stay as they are for the first environment steps of a run.

    Their gradient steps are left out, so their optimizers and the schedules that count gradient steps do not move, nor
    do their target networks. A schedule that follows environment steps (`EnvStepsLR`) goes on by the clock. It
    depends on the clock alone, so a resumed run needs nothing but the same setting.

    Args:
        parts: names of learned networks, e.g. ``["policy"]``; the temperature is ``temperature``.
        env_steps: environment steps of the run, random ones included, before which they do not learn.

    Raises:
        UsageError: no part, or a number below 1; as a run starts, a part that there is not, or that learns no earlier
            anyway.

    Example::

        model.load_weights("RUN", parts=["policy"])
        Trainer(callbacks=[Freeze(parts=["policy"], env_steps=5_000)])  # until the new critic knows its values
    """

    def __init__(self, parts: Sequence[str], env_steps: int) -> None:
        require(bool(parts), "Freeze.parts", parts, 'name one part or more, e.g. ["policy"]')
        require(env_steps >= 1, "Freeze.env_steps", env_steps, "give 1 or more")
        self.parts, self.env_steps = tuple(parts), env_steps

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the learner."""
        pl_module.frozen.freeze(self.parts, self.env_steps)  # type: ignore[operator, union-attr]

    def check(self, learner: Any, data: Any) -> None:
        """Refuse what it could not do.

        Raises:
            UsageError: a part that there is not, or random steps that last longer.
        """
        learner.frozen.check(self.parts)
        first = 0 if getattr(data, "buffer_from", None) else getattr(data, "learning_starts", 0)
        advice = f"nothing learns in the first learning_starts={first} anyway; give more than that"
        require(self.env_steps > first, "Freeze.env_steps", self.env_steps, advice)
