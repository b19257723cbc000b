"""The optimizers of a learner and their schedules: made, brought to their networks, gone on with."""

import warnings
from copy import deepcopy
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from rl_lightning.algorithms.shared.divergence import check_optimizer_states
from rl_lightning.algorithms.shared.learned import Learned, Stepper, trainable
from rl_lightning.checkpoints import KEY, Continued, continue_optimizers
from rl_lightning.errors import UsageError
from rl_lightning.fast.stepping import step_of
from rl_lightning.optim import EnvStepsLR
from rl_lightning.schedules import Clock
from rl_lightning.types import State

LOOKED_AHEAD = 10_000  # gradient steps, in search of a rate above 0
FIX = "make it longer, or give an EnvStepsLR over the whole run"


class Optimizers:
    """The learned networks of a learner, each with what moves it; all is matched by the names of the networks.

    Attributes:
        learned: in the order in which they were declared.
        described: the optimizers as a checkpoint says of them, once they have been made.
    """

    def __init__(self) -> None:
        self.learned: dict[str, Learned] = {}
        self.described: dict[str, State] = {}
        self._steppers: dict[str, Stepper] = {}
        self._follow_clock: list[EnvStepsLR] = []

    def __getstate__(self) -> State:
        """Without what a run has brought together: a copy would have a copy of its trainer too."""
        return self.__dict__ | {"_steppers": {}, "_follow_clock": []}

    def add(self, learned: Learned) -> None:
        """Take one more network.

        Raises:
            UsageError: as of `Learned.make`.
        """
        self.learned[learned.name] = learned
        if trainable(learned.network):
            learned.make()

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The learned networks by name."""
        return {name: one.network for name, one in self.learned.items()}

    def configured(self) -> OptimizerLRScheduler:
        """Optimizers and schedulers, made anew, as Lightning takes them."""
        made = self._make()
        self.described = {name: one.describe() for name, one in made.items()}
        schedulers = [one.scheduler for one in made.values() if one.scheduler is not None]
        return [one.optimizer for one in made.values()], schedulers

    def attach(self, learner: LightningModule, clock: Clock, goes_on: bool) -> None:
        """Bring each network together with its optimizer as the trainer has it.

        Args:
            learner: whose networks they are.
            clock: of the run.
            goes_on: whether gradient steps have been taken before.

        Warns:
            UserWarning: of a run that goes on, naming a schedule that has come to rate 0.
        """
        schedulers = {id(scheduler.optimizer): scheduler for scheduler in _as_list(learner.lr_schedulers())}
        self._follow_clock = [s for s in schedulers.values() if isinstance(s, EnvStepsLR)]
        self.follow(clock)  # a checkpoint has the rate of its own run's length
        self._steppers = {}
        for name, optimizer in zip(self._moved(), _as_list(learner.optimizers()), strict=True):
            scheduler = schedulers.get(id(optimizer.optimizer))
            step = step_of(optimizer, learner, learner.trainer)
            self._steppers[name] = Stepper(step, self.learned[name].network, scheduler)
            if goes_on and scheduler and all(group["lr"] == 0.0 for group in optimizer.param_groups):
                rank_zero_warn(
                    f"{name}_scheduler={type(scheduler).__name__} has come to rate 0, so {name} learns no more: {FIX}"
                )

    def follow(self, clock: Clock) -> None:
        """Set the learning rates that follow the run's environment steps."""
        for scheduler in self._follow_clock:
            scheduler.follow(clock)

    def step(self, name: str, gradients: tuple[Tensor, ...]) -> None:
        """Move the network of this name along its gradients; its schedule moves on."""
        self._steppers[name](gradients)

    def described_in(self, checkpoint: State, env_steps: int) -> dict[str, State]:
        """What a checkpoint is to say of the optimizers whose states it has.

        Args:
            checkpoint: to be saved.
            env_steps: of the run so far, for the message.

        Raises:
            Divergence: where moments are not finite.
        """
        states = checkpoint.get("optimizer_states")  # None where weights alone are saved
        if states:
            check_optimizer_states(states, self.described, env_steps)
        return {} if states == [] else self.described  # a trainer that only evaluates has none

    def go_on(self, checkpoint: State, clock: Clock, alone: bool) -> None:
        """Make a checkpoint's optimizers and schedulers those of this run, in place, as `continue_optimizers` does.

        Args:
            checkpoint: to be restored by Lightning.
            clock: of the run that goes on.
            alone: whether nothing but them moves networks.

        Raises:
            UsageError: where they are alone and all schedules have come to rate 0 for the rest of the run.
        """
        own = self._make()
        continue_optimizers(checkpoint, checkpoint[KEY]["learned"], own)
        optimizers = dict(zip(own, checkpoint["optimizer_states"], strict=True))
        schedulers = iter(checkpoint["lr_schedulers"])
        scheduled = {name: next(schedulers) for name, one in own.items() if one.scheduler}
        ended = [name for name, state in scheduled.items() if has_ended(own[name], optimizers[name], state, clock)]
        if alone and ended and len(ended) == len(own):
            names = ", ".join(f"{name}_scheduler={type(own[name].scheduler).__name__}" for name in ended)
            raise UsageError(
                f"{names} has come to rate 0 for the rest of the run, in which nothing would be learned: {FIX}"
            )

    def _moved(self) -> dict[str, Learned]:
        """Those with a parameter that learns, which an optimizer needs."""
        return {name: one for name, one in self.learned.items() if trainable(one.network)}

    def _make(self) -> dict[str, Continued]:
        return {name: one.make() for name, one in self._moved().items()}


def has_ended(one: Continued, optimizer: State, scheduler: State, clock: Clock) -> bool:
    """Whether a schedule has come to rate 0 and stays there; a rate of 0 that was given is meant.

    Args:
        one: made anew, to be used for nothing else.
        optimizer: the state that it goes on from.
        scheduler: likewise.
        clock: of the run that goes on.
    """
    assert one.scheduler is not None
    groups = one.optimizer.param_groups
    if not any(group["initial_lr"] for group in groups):
        return False
    for group, saved in zip(groups, optimizer["param_groups"], strict=True):
        group["lr"] = saved["lr"]
    one.scheduler.load_state_dict(deepcopy(scheduler))  # torch's CyclicLR takes out of it what it reads
    if isinstance(one.scheduler, EnvStepsLR):
        one.scheduler.follow(clock)
        return not any(group["lr"] for group in groups)  # it goes one way, and has arrived
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch misses the optimizer's steps
        for _ in range(LOOKED_AHEAD):
            if any(group["lr"] for group in groups):
                return False
            one.scheduler.step()
    return True


def _as_list(items: Any) -> list[Any]:
    """What `optimizers()` and `lr_schedulers()` return: none, one or several."""
    if items is None:
        return []
    return items if isinstance(items, list) else [items]
