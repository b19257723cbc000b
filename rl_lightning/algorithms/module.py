"""What every algorithm shares: manual optimization, evaluation episodes, and honest checkpoints."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import CatMetric

from rl_lightning.callbacks import EnvironmentInteraction, PolyakAveraging
from rl_lightning.checkpoints import KEY, check_resumable, check_signature, keep_settings, load_checkpoint, signature
from rl_lightning.compilation import compiled_or_eager
from rl_lightning.data.datamodules import ReplayDataModule
from rl_lightning.data.module import EnvironmentDataModule
from rl_lightning.errors import UsageError, require
from rl_lightning.evaluation import play_episodes, record_episode
from rl_lightning.normalization import ReturnNormalizer
from rl_lightning.policy_and_value import PolicyAndValue
from rl_lightning.types import Episode, Obs, to_device

Metrics = dict[str, Tensor]  # detached, by the name they are logged under: scalars, or [B], whose mean is logged
# for each optimizer of `configure_optimizers`, in its order; None where it takes no step
Gradients = Sequence[tuple[Tensor, ...] | None]


class Algorithm(LightningModule):
    """The base of every learner, which brings its networks, `act`, `gradients` and `configure_optimizers`.

    Lightning's training batch is one iteration of an algorithm's outer loop. `minibatches` says what is in it; for each
    `training_step` takes `gradients`, and every optimizer steps with its own.

    Args:
        observation_space: of one environment.
        action_space: of one environment, bounded dimensions in [-1, 1] (see `rl_lightning.make_env`).
        compile: run `gradients` as one compiled graph; where that fails it runs eagerly, with one warning.

    Attributes:
        learns_from: the kind of DataModule whose batches it takes.
        gamma: the discount, which replay sums the rewards of several steps with; of learners from replay.
        gradient_steps: taken so far, each of all optimizers.
        losses: metrics of the latest gradient step that had them.
        polyak_averaging: what moves the target networks, of learners that have any.
    """

    learns_from: ClassVar[type[EnvironmentDataModule]] = ReplayDataModule
    gamma: float
    polyak_averaging: PolyakAveraging | None = None

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any], compile: bool = True) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.observation_space, self.action_space = observation_space, action_space
        self.compile_gradients = compile
        self.gradient_steps = 0
        self.losses: Metrics = {}
        self._world_size = 1
        self._targets: list[tuple[nn.Module, nn.Module]] = []
        self._interaction = EnvironmentInteraction()
        self._eval_returns, self._eval_lengths = CatMetric(), CatMetric()

    @abstractmethod
    def act(self, obs: Any, deterministic: bool = False) -> Tensor:
        """Actions for observations [B, *obs_shape], as the environments of `make_env` take them."""

    @abstractmethod
    def gradients(self, batch: Any) -> tuple[Metrics, Gradients]:
        """The losses' metrics, and each optimizer's gradients, for one minibatch. Pure: it changes nothing."""

    def minibatches(self, batch: Any) -> Iterator[Any]:
        """What `gradients` takes, one after the other; here minibatches of replay, whose priorities follow learning."""
        for minibatch in batch:
            yield minibatch
            if batch.prioritized:
                batch.learned(self.losses["train/td_error"])

    def episodes_end(self, ended: NDArray[np.bool_]) -> None:
        """Called while acting, when episodes have ended in some of the environments, [num_envs]."""

    def check_data(self, data: object) -> None:
        """Refuse a DataModule that this learner cannot learn from.

        Raises:
            UsageError: naming the right one.
        """
        if not isinstance(data, self.learns_from):
            raise UsageError(
                f"datamodule={type(data).__name__} is not allowed with {type(self).__name__}: it learns from a "
                f"{self.learns_from.__name__}; give that as data"
            )

    def target_of(self, network: nn.Module) -> Any:
        """A target network: a copy that no optimizer moves, and that `PolyakAveraging` lets follow `network`."""
        target = deepcopy(network).requires_grad_(False)
        self._targets.append((network, target))
        return target

    def target_networks(self) -> list[tuple[nn.Module, nn.Module]]:
        """Pairs (online, target) for `PolyakAveraging` to follow."""
        return self._targets

    def configure_callbacks(self) -> list[Callback]:
        """The callbacks this learner cannot run without; one that the trainer has already, the user's own, stays."""
        own = [self._interaction, *([self.polyak_averaging] if self.polyak_averaging else [])]
        return [callback for callback in own if self._is_needed(callback)]

    @property
    def env_steps(self) -> int:
        """Environment steps taken so far."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        return next((c.env_steps for c in callbacks if isinstance(c, EnvironmentInteraction)), 0)

    @property
    def progress(self) -> float:
        """The share of the run's environment steps that is done; 1 outside a run."""
        if self._trainer is None:
            return 1.0
        total: int = self.trainer.datamodule.total_env_steps  # type: ignore[attr-defined]
        return min(1.0, self.env_steps / total)

    # Learning

    def setup(self, stage: str) -> None:
        """Refuse what cannot train, then choose how `gradients` runs. A run starts at zero, unless it is resumed."""
        if stage == "fit":
            self.gradient_steps, self.losses = 0, {}
        self._world_size = self.trainer.world_size
        check_precision(self.trainer.precision)
        warn_of_emulation(self.trainer.precision, self.trainer.strategy.root_device)
        self.check_data(self.trainer.datamodule)  # type: ignore[attr-defined]
        self._gradients = compiled_or_eager(self.gradients) if self.compile_gradients else self.gradients

    def on_fit_start(self) -> None:
        """Policies that learn from what they have done do so in the mode that they act in."""
        for module in self.modules():
            if isinstance(module, PolicyAndValue):
                module.keep_policy_in_eval_mode()

    def on_train_start(self) -> None:
        """Look the optimizers up once, with the parameters each of them moves; episodes begin anew."""
        for module in self.modules():
            if isinstance(module, ReturnNormalizer):
                module.carried = torch.zeros((), device=self.device)
        schedulers = {id(scheduler.optimizer): scheduler for scheduler in _as_list(self.lr_schedulers())}
        self._steppers = [
            (
                self._step_of(optimizer),
                [parameter for group in optimizer.param_groups for parameter in group["params"]],
                schedulers.get(id(optimizer.optimizer)),
            )
            for optimizer in _as_list(self.optimizers())
        ]
        self._hooks = [
            callback.on_gradient_step_end
            for callback in self.trainer.callbacks  # type: ignore[attr-defined]
            if hasattr(callback, "on_gradient_step_end")
        ]

    def _step_of(self, optimizer: LightningOptimizer) -> Callable[[], Any]:
        """The optimizer's `step`, past Lightning's strategy where it would do no more than call it.

        It asks every callback for `on_before_optimizer_step`, which takes longer than a small network's step.
        """
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        hook = "on_before_optimizer_step"
        asked = is_overridden(hook, self) or any(is_overridden(hook, callback, Callback) for callback in callbacks)
        if asked or type(self.trainer.strategy) is not SingleDeviceStrategy:
            return optimizer.step
        step = optimizer.optimizer.step  # as schedulers have wrapped it

        def counted() -> None:
            optimizer._on_before_step()  # Lightning's count, trainer.global_step, and its profiler
            step()
            optimizer._on_after_step()

        return counted

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One iteration: a gradient step for each of the minibatches in `batch`."""
        for minibatch in self.minibatches(batch):
            metrics, gradients = self._gradients(minibatch)
            self.losses.update(metrics)
            self._step_optimizers(gradients)

    def _step_optimizers(self, gradients: Gradients) -> None:
        """Step each optimizer with its own gradients, and its scheduler; then call `on_gradient_step_end`."""
        for (step, parameters, scheduler), own in zip(self._steppers, gradients, strict=True):
            if own is None:
                continue
            for parameter, gradient in zip(parameters, self._mean_over_processes(own), strict=True):
                parameter.grad = laid_out_like(parameter, gradient)
            step()
            if scheduler is not None:
                scheduler.step()
        self.gradient_steps += 1
        for on_gradient_step_end in self._hooks:
            on_gradient_step_end(self.trainer, self)

    def _mean_over_processes(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self._world_size == 1:
            return gradients
        mean = self.trainer.strategy.reduce(torch.cat([g.flatten() for g in gradients]), reduce_op="mean")
        assert isinstance(mean, Tensor)
        parts = torch.split(mean, [g.numel() for g in gradients])
        return tuple(part.view_as(g) for part, g in zip(parts, gradients, strict=True))

    def gather(self, tensor: Tensor) -> Tensor:
        """A tensor [...] of this process to those of all processes, [processes, ...]."""
        if self.trainer.world_size == 1:
            return tensor.unsqueeze(0)
        gathered = self.all_gather(tensor)
        assert isinstance(gathered, Tensor)
        return gathered

    # Evaluation

    def validation_step(self, seeds: Sequence[int], batch_idx: int) -> None:
        """Play one episode for each seed with the deterministic policy."""
        self._play(seeds)

    def test_step(self, seeds: Sequence[int], batch_idx: int) -> None:
        """Play one episode for each seed with the deterministic policy."""
        self._play(seeds)

    def predict_step(self, seeds: Sequence[int], batch_idx: int) -> list[Episode]:
        """Record one episode for each seed, played with the deterministic policy."""
        envs = self.trainer.datamodule.eval_envs()  # type: ignore[attr-defined]
        return [record_episode(self._act_deterministically, envs, seed) for seed in seeds]

    def on_validation_epoch_end(self) -> None:
        """Log the returns of all processes' episodes."""
        self._log_episodes("val")

    def on_test_epoch_end(self) -> None:
        """Log the returns of all processes' episodes."""
        self._log_episodes("test")

    def _act_deterministically(self, obs: Obs) -> Tensor:
        return self.act(to_device(obs, self.device), deterministic=True)

    def _play(self, seeds: Sequence[int]) -> None:
        envs = self.trainer.datamodule.eval_envs()  # type: ignore[attr-defined]
        returns, lengths = play_episodes(self._act_deterministically, envs, seeds)
        self._eval_returns.update(returns.to(self.device))
        self._eval_lengths.update(lengths.float().to(self.device))

    def _log_episodes(self, stage: str) -> None:
        returns, lengths = self._eval_returns.compute(), self._eval_lengths.compute()
        self._eval_returns.reset()
        self._eval_lengths.reset()
        row: dict[str, Tensor | float] = {
            f"{stage}/return_mean": returns.mean(),
            f"{stage}/return_std": returns.std(correction=0),
            f"{stage}/episode_length_mean": lengths.mean(),
            "env_steps": float(self.env_steps),
        }
        if self.trainer.loggers:
            row["step"] = float(self.env_steps)  # what Lightning takes for the loggers' x-axis
        self.log_dict(row)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note whose checkpoint it is, and how far the run has come."""
        checkpoint[KEY] = signature(self, self.observation_space, self.action_space)
        checkpoint[KEY].update(gradient_steps=self.gradient_steps, env_steps=self.env_steps)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another learner's checkpoint; of optimizers and schedulers take the state, not the settings."""
        check_signature(checkpoint.get(KEY, {}), signature(self, self.observation_space, self.action_space), "to load")
        self.gradient_steps = checkpoint[KEY]["gradient_steps"]
        if self._trainer is None:
            return
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EnvironmentInteraction):  # a checkpoint of weights alone has no callback's state
                callback.env_steps = checkpoint[KEY]["env_steps"]
            if isinstance(callback, EarlyStopping) and callback.state_key in checkpoint.get("callbacks", {}):
                checkpoint["callbacks"][callback.state_key]["patience"] = callback.patience  # a setting too
        if self.trainer.state.fn == "fit":  # evaluation has no optimizers
            check_resumable(checkpoint, str(self.trainer.ckpt_path))
            keep_settings(checkpoint, self.configure_optimizers())

    def load_weights(self, path: str | Path) -> None:
        """Start from the networks of a checkpoint; optimizers, counters and replay start fresh.

        Args:
            path: a file or URL.

        Raises:
            UsageError: where it is missing, damaged, not ours, or of another algorithm, other spaces or networks.
        """
        checkpoint = load_checkpoint(path, signature(self, self.observation_space, self.action_space))
        try:
            self.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            reason = " ".join(str(error).split()[:40])
            raise UsageError(
                f"init_from={str(path)!r} holds other networks than this run's: give the network it was trained with "
                f"({reason} ...)"
            ) from error

    def _is_needed(self, callback: Callback) -> bool:
        """Whether the trainer has none of this kind, be it the user's or this one from an earlier stage."""
        return not any(isinstance(c, type(callback)) for c in self.trainer.callbacks)  # type: ignore[attr-defined]


def gradients_of(loss: Tensor, owners: Sequence[nn.Module]) -> list[tuple[Tensor, ...]]:
    """∂loss/∂parameters for each owner's own parameters, in one backward pass."""
    parameters = [list(owner.parameters()) for owner in owners]
    flat = torch.autograd.grad(loss, [parameter for own in parameters for parameter in own])
    ends = [sum(len(own) for own in parameters[: i + 1]) for i in range(len(parameters))]
    return [tuple(flat[end - len(own) : end]) for own, end in zip(parameters, ends, strict=True)]


def laid_out_like(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with its entries in memory as the parameter's are; a copy where they are not yet.

    `torch.autograd.grad` gives them as the backward pass has made them: channels last, transposed, or one entry for
    many. Fused kernels read parameter and gradient side by side and look at no strides.
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def configured(
    name: str, network: nn.Module, optimizer: OptimizerCallable, scheduler: LRSchedulerCallable | None
) -> Any:
    """One optimizer as `configure_optimizers` returns it, with its learning-rate scheduler if there is one.

    Args:
        name: the setting, for messages.
        network: whose parameters it moves.
        optimizer: makes it.
        scheduler: makes its scheduler, which will be stepped once for each gradient step.

    Raises:
        UsageError: settings that the optimizer or scheduler refuses, and schedulers that wait for a metric.
    """
    try:
        made = optimizer(network.parameters())
        schedule = scheduler(made) if scheduler else None
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{name} is not allowed: {error}; give settings that it takes (a learning rate is 0 or more)"
        ) from error
    if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise UsageError(
            f"the scheduler of {name}, ReduceLROnPlateau, is not allowed: schedulers step at every gradient step, "
            "without a metric; give one that counts steps, e.g. CosineAnnealingLR"
        )
    return {"optimizer": made, "lr_scheduler": schedule} if schedule else {"optimizer": made}


def check_precision(precision: str | int | None) -> None:
    """Refuse precisions that gradients cannot be taken in: they need float32 weights, and no loss scaling.

    Raises:
        UsageError: for any but float32 and bf16-mixed.
    """
    require(
        precision in (None, 32, "32", "32-true", "bf16-mixed", "bf16"),
        "trainer.precision",
        precision,
        "gradients are taken of float32 weights without loss scaling; give 32-true or bf16-mixed",
    )


def warn_of_emulation(precision: str | int | None, device: torch.device) -> None:
    """Say that bf16-mixed is slow on a processor without bf16 arithmetic.

    Warns:
        UserWarning: naming the precision to give.
    """
    if str(precision).startswith("bf16") and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        rank_zero_warn(
            f"trainer.precision={precision} is emulated on this processor, which has no bf16 arithmetic: it is about "
            "ten times slower than 32-true; give that"
        )


def _as_list(items: Any) -> list[Any]:
    """What `optimizers()` and `lr_schedulers()` return: none, one or several."""
    if items is None:
        return []
    return items if isinstance(items, list) else [items]
