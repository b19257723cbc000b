"""What every algorithm shares: manual optimization, evaluation episodes, and honest checkpoints."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import gymnasium as gym
import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor, nn

from rl_lightning.algorithms.divergence import check_finite, check_optimizer_states, finite, traced_to_divergence
from rl_lightning.algorithms.evaluation import EpisodeStatistics
from rl_lightning.algorithms.frozen import Frozen
from rl_lightning.algorithms.initial_weights import exported_weights, initial_weights, is_export, names_in
from rl_lightning.algorithms.learned import (
    Gradients,
    Learned,
    Metrics,
    Stepper,
    detached,
    grad,
    grads,
    has_ended,
    kept,
    trainable,
    with_parameters,
)
from rl_lightning.algorithms.precision import warn_of_emulation
from rl_lightning.algorithms.ranges import check_ranges
from rl_lightning.algorithms.threads import warn_of_crowd
from rl_lightning.algorithms.trainer_settings import check_trainer
from rl_lightning.callbacks import EnvironmentInteraction, MetricsCSV, PolyakAveraging, Products, Signals
from rl_lightning.callbacks.monitors import EnvStepsLearningRateMonitor
from rl_lightning.checkpoints import (
    KEY,
    SCHEMA,
    Continued,
    check_networks,
    check_resumable,
    check_signature,
    continue_optimizers,
    signature,
)
from rl_lightning.checkpoints.io import AtomicCheckpointIO
from rl_lightning.data.base import EnvironmentDataModule
from rl_lightning.data.replay.datamodule import ReplayDataModule
from rl_lightning.data.rollout_replay import RolloutReplayDataModule
from rl_lightning.environments.episodes import play_episodes, record_episode
from rl_lightning.errors import UsageError, one_line, require
from rl_lightning.exploration import ActionNoise
from rl_lightning.fast.compilation import compiled_or_eager, writes_over_results
from rl_lightning.fast.exchange import mean_of_processes
from rl_lightning.fast.stepping import step_of
from rl_lightning.networks import PolicyAndValue
from rl_lightning.networks.normalization import ObservationNormalizer, ReturnNormalizer
from rl_lightning.optim import EnvStepsLR
from rl_lightning.policies.description import describe, plain
from rl_lightning.policies.network import PolicyNetwork
from rl_lightning.schedules import Clock
from rl_lightning.spaces import Actions, fault_of_actions, own_space
from rl_lightning.types import Episode, Obs, Rollout, State, Transition, flat_in_time, map_obs, to_device

__all__ = ["Algorithm", "Gradients", "Metrics", "check_ranges", "grad", "grads"]

Network = TypeVar("Network", bound=nn.Module)


class Algorithm(LightningModule, ABC):
    """The base of every learner, which brings its networks, `act`, `gradients` and `learn`.

    Lightning's training batch is one or more iterations of an algorithm's outer loop; `learn` is that loop.

    Args:
        observation_space: of one environment.
        action_space: of one environment, bounded dimensions in [-1, 1] (see `rl_lightning.make_env`).
        gamma: the discount γ, in [0, 1].
        compile: run `gradients` as one compiled graph; where that fails it runs eagerly, with one warning.
        normalize_observations: of a learner from replay: real-valued ones that are no images, with running statistics.
        normalize_returns: likewise: scale rewards by the running deviation of returns.

    Attributes:
        learns_from: the kind of DataModule whose batches it takes.
        acts_in: the kind of actions that it has a policy for.
        acts_by: the attribute that holds the network of its `act`, which is what an exported policy needs.
        takes_critic: whether an off-policy critic can learn from replay beside its rollouts.
        steps_without_optimizer: whether a network of it moves that no optimizer moves.
        gamma: the discount.
        normalizer: of observations, for all networks of a learner from replay.
        return_normalizer: of rewards, likewise.
        gradient_steps: taken so far, each of all optimizers that were due.
        moved_online_networks: whether the latest gradient step was of a network that has a target.
        metrics: of the latest gradient step that had them.
        has_loaded: whether weights have been loaded into it.
        clock: environment steps of the run.
        frozen: the networks that take no gradient steps for now.
        noise: on actions while collecting, of learners that have it.
        polyak_averaging: what moves the target networks, of learners that have any.

    Raises:
        UsageError: an action space of another kind, a discount out of range, or normalized observations where there are
            none to normalize.
    """

    learns_from: ClassVar[type[EnvironmentDataModule]] = ReplayDataModule
    acts_in: ClassVar[Actions | None] = None  # None leaves it to the learner
    acts_by: ClassVar[str | None] = None  # None leaves it unsaid, and nothing can be exported
    takes_critic: ClassVar[bool] = False
    steps_without_optimizer: ClassVar[bool] = False
    noise: ActionNoise | None = None
    polyak_averaging: PolyakAveraging | None = None

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        gamma: float = 0.99,
        compile: bool = True,
        normalize_observations: bool = False,
        normalize_returns: bool = False,
    ) -> None:
        super().__init__()
        check_ranges(gamma=gamma)
        if self.acts_in is not None and (fault := fault_of_actions(action_space, self.acts_in)):
            others = sorted(cls.__name__ for cls in Algorithm.__subclasses__() if cls._can_act_in(action_space))
            instead = f", or one of {', '.join(others)}" if others else ""
            own = one_line(own_space(action_space))
            raise UsageError(
                f"action space {own} is not supported by {type(self).__name__}: {fault}; choose another "
                f"environment{instead}"
            )
        self.automatic_optimization = False
        self.observation_space, self.action_space = observation_space, action_space
        self.gamma, self.compile_gradients = gamma, compile
        # statistics of time steps that come one by one: in float32 a million of them outweigh the next
        self.normalizer = ObservationNormalizer(observation_space).double() if normalize_observations else None
        self.return_normalizer = ReturnNormalizer(gamma).double() if normalize_returns else None
        self.gradient_steps, self.clock, self.moved_online_networks = 0, Clock(0), False
        self.metrics: Metrics = {}
        self.has_loaded = False
        self.register_load_state_dict_post_hook(_note_weights)  # type: ignore[no-untyped-call]
        self._declared: dict[str, nn.Module] = {}  # networks by name, also those that no optimizer moves
        self.frozen = Frozen(self._declared, self.learns)
        self._learned: dict[str, Learned] = {}
        self._described: dict[str, State] = {}  # their optimizers, as a checkpoint says of them
        self._computes: dict[str, Callable[..., Any]] = {}
        self._processes = 1
        self._targets: list[tuple[nn.Module, nn.Module]] = []
        self._online: set[str] = set()  # names of the learned networks that have a target
        self._interaction = EnvironmentInteraction()
        self._products = Products()
        self._first_hooks: list[Callable[..., None]] = []
        self._first_end_hooks: list[Callable[..., None]] = []
        self._episodes = EpisodeStatistics()

    @classmethod
    def _can_act_in(cls, space: gym.Space[Any]) -> bool:
        return cls.acts_in is not None and fault_of_actions(space, cls.acts_in) is None

    # What a learner brings

    @abstractmethod
    def act(self, obs: Any, deterministic: bool = False) -> Tensor:
        """Actions for observations [B, *obs_shape], as the environments of `make_env` take them."""

    gradients: Callable[..., Gradients]
    """Metrics, and the gradients of each learned network, for one minibatch. Pure: it changes nothing."""

    @abstractmethod
    def learn(self, batch: Any) -> None:
        """Iterations of the algorithm: what is drawn, which network steps when, and when targets follow."""

    def episodes_end(self, ended: NDArray[np.bool_]) -> None:
        """Called while acting, when episodes have ended in some of the environments, [num_envs]; noise begins anew."""
        if self.noise is not None:
            self.noise.reset(ended)

    def check_data(self, data: object) -> None:
        """Refuse a DataModule that this learner cannot learn from.

        Raises:
            UsageError: naming the right one.
        """
        replay_for_nothing = isinstance(data, RolloutReplayDataModule) and not self.takes_critic
        if not isinstance(data, self.learns_from) or replay_for_nothing:
            raise UsageError(
                f"datamodule={type(data).__name__} is not allowed with {type(self).__name__}: it learns from a "
                f"{self.learns_from.__name__}; give that as data"
            )

    def learned(
        self,
        name: str,
        network: Network,
        optimizer: OptimizerCallable | None,
        scheduler: LRSchedulerCallable | None = None,
    ) -> Network:
        """Declare a network that an optimizer of its own moves.

        Args:
            name: which `step` and `Gradients.of` know it by; its settings are NAME_optimizer and NAME_scheduler.
            network: what is returned.
            optimizer: called with the network's parameters; None leaves the network as it is.
            scheduler: of its learning rate, called with the optimizer. It steps with it, or follows the run's
                environment steps if it is an `EnvStepsLR`.

        Raises:
            UsageError: as of `Learned.make`, before anything is created.
        """
        self._declared[name] = network
        if optimizer is not None:
            self._learned[name] = Learned(name, network, optimizer, scheduler)
            if trainable(network):
                self._learned[name].make()
        return network

    def learns(self, name: str) -> bool:
        """Whether the network of this name is moved."""
        return name in self._learned

    def is_frozen(self, name: str) -> bool:
        """Whether the network of this name takes no steps now."""
        return self.frozen.has(name, self.clock.env_steps)

    def frozen_networks(self) -> list[nn.Module]:
        """The networks that take no steps now, whose targets do not follow either."""
        return self.frozen.networks(self.clock.env_steps)

    def target_of(self, network: Network, tau: float, target_update_interval: int) -> Network:
        """Declare a target network: a copy that no optimizer moves, and that `PolyakAveraging` lets follow `network`.

        Args:
            network: the online network.
            tau: its weight in each update of the target, in (0, 1]; the same for all targets of a learner.
            target_update_interval: gradient steps from one update to the next; likewise.

        Raises:
            UsageError: a value out of range.
        """
        if self.polyak_averaging is None:
            self.polyak_averaging = PolyakAveraging(tau, target_update_interval)
        pace, own = (tau, target_update_interval), self.polyak_averaging
        all_others = (own.tau, own.target_update_interval)
        advice = f"one callback moves all targets of a learner; give {all_others} here too"
        require(pace == all_others, "tau, target_update_interval", pace, advice)
        self._online |= {learned.name for learned in self._learned.values() if learned.network is network}
        target = deepcopy(network).requires_grad_(False)
        self._targets.append((network, target))
        return target

    def target_networks(self) -> list[tuple[nn.Module, nn.Module]]:
        """Pairs (online, target) for `PolyakAveraging` to follow."""
        return self._targets

    # Normalization

    def normalized(self, obs: Obs) -> Obs:
        """Observations [B, *obs_shape] as all networks of a learner from replay see them."""
        return obs if self.normalizer is None else self.normalizer(obs)

    def normalized_batch(self, batch: Transition) -> Transition:
        """A minibatch of replay, which keeps it raw, as networks and targets see it, with the statistics so far."""
        reward = batch.reward if self.return_normalizer is None else self.return_normalizer(batch.reward)
        return batch._replace(obs=self.normalized(batch.obs), next_obs=self.normalized(batch.next_obs), reward=reward)

    def observe(self, rollouts: Iterable[Rollout]) -> None:
        """Let new time steps enter the running statistics, where there are any.

        Each observation counts once: those that were acted on, and the last ones of episodes.

        Args:
            rollouts: the new time steps, [T, N, ...], on any device.
        """
        if self.normalizer is None and self.return_normalizer is None:
            return
        for rollout in rollouts:
            ended = rollout.terminated | rollout.truncated  # [T, N]
            if self.normalizer is not None:
                last = map_obs(lambda x, ended=ended: x[ended], rollout.next_obs)  # [ended, *obs_shape]
                obs = map_obs(lambda *parts: torch.cat(parts), flat_in_time(rollout.obs), last)  # [T N + ended, ...]
                self.normalizer.update(map_obs(lambda x: x.unsqueeze(0), to_device(obs, self.device)), self.gather)
            if self.return_normalizer is not None:
                reward, ended = to_device(rollout.reward.double(), self.device), to_device(ended, self.device)
                self.return_normalizer.update(reward, ended, self.gather)

    # Learning

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer for each learned network, in the order in which they were declared."""
        made = {name: learned.make() for name, learned in with_parameters(self._learned).items()}
        self._described = {name: one.describe() for name, one in made.items()}
        schedulers = [one.scheduler for one in made.values() if one.scheduler is not None]
        return [one.optimizer for one in made.values()], schedulers

    def configure_callbacks(self) -> list[Callback]:
        """The callbacks this learner cannot run without; one that the trainer has already, the user's own, stays.

        Lightning's LearningRateMonitor gives its place to one that a resumed run calls no second time.

        Raises:
            UsageError: settings of the trainer that cannot be followed; loggers have made no folders yet.
        """
        stage = self.trainer.state.fn
        check_trainer(self.trainer, str(stage and stage.value), self, self.trainer.datamodule)  # type: ignore[attr-defined]
        own = [
            Signals(),
            self._interaction,
            self._products,
            *([self.polyak_averaging] if self.polyak_averaging else []),
        ]
        present = self.trainer.callbacks  # type: ignore[attr-defined]
        monitors = [EnvStepsLearningRateMonitor(each) for each in present if type(each) is LearningRateMonitor]
        return [mine for mine in own if not any(isinstance(each, type(mine)) for each in present)] + monitors

    @property
    def env_steps(self) -> int:
        """Environment steps taken so far."""
        return self.clock.env_steps

    def setup(self, stage: str) -> None:
        """Refuse what cannot train, then choose how `gradients` runs. A run starts at zero, unless it is resumed.

        Checkpoints become `AtomicCheckpointIO`'s, unless the trainer was given a plugin for them.
        """
        if not hasattr(self, "gradients"):
            raise UsageError(f"{type(self).__name__} has no gradients: define it, as docs/extending.md shows")
        warn_of_emulation(self.trainer.precision, self.trainer.strategy.root_device)
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # Lightning's own
            self.trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.check_data(data)
        self.clock, self._processes = data.clock, self.trainer.world_size
        if stage == "fit":
            if self._processes > 1:
                self._mean_of_all = mean_of_processes(self.trainer.strategy.root_device, self.trainer.num_nodes)
            self.gradient_steps, self.metrics = 0, {}
            self.clock.env_steps, self.clock.interrupted = 0, 0
            self.frozen.begin(type(self).__name__)
            warn_of_crowd(self.trainer.strategy.root_device)
        self._computes = {}

    def on_fit_start(self) -> None:
        """Policies that learn from what they have done do so in the mode that they act in; episodes begin anew."""
        for module in self.modules():
            if isinstance(module, PolicyAndValue):
                module.keep_policy_in_eval_mode()
            if isinstance(module, ReturnNormalizer):
                module.carried = torch.zeros((), device=self.device)
        if self.noise is not None:
            self.noise.state = None

    def acting_state(self) -> State:
        """What one step of acting leaves to the next, and the metrics of the latest gradient step."""
        carried = {name: m.carried.cpu() for name, m in self.named_modules() if isinstance(m, ReturnNormalizer)}
        noise = None if self.noise is None or self.noise.state is None else self.noise.state.cpu()
        return {"noise": noise, "carried": carried, "metrics": {name: m.cpu() for name, m in self.metrics.items()}}

    def load_acting_state(self, state: State, episodes_go_on: bool) -> None:
        """Go on from a saved state of acting; with new episodes their returns begin anew."""
        if self.noise is not None and state["noise"] is not None:
            self.noise.state = state["noise"].to(self.device)
        for name, module in self.named_modules():
            if isinstance(module, ReturnNormalizer) and name in state["carried"] and episodes_go_on:
                module.carried = state["carried"][name].to(self.device)
        self.metrics = {name: metric.to(self.device) for name, metric in state["metrics"].items()}

    def on_train_start(self) -> None:
        """Bring each learned network and its optimizer together; new statistics take in all that replay holds."""
        if any(each is not None and each.is_new for each in (self.normalizer, self.return_normalizer)):
            self.trainer.datamodule.observed = 0  # type: ignore[attr-defined]
        schedulers = {id(scheduler.optimizer): scheduler for scheduler in _as_list(self.lr_schedulers())}
        self._follow_clock = [s for s in schedulers.values() if isinstance(s, EnvStepsLR)]
        for follower in self._follow_clock:  # a checkpoint has the rate of its own run's length
            follower.follow(self.clock)
        self._steppers: dict[str, Stepper] = {}
        moved = with_parameters(self._learned).values()
        for learned, optimizer in zip(moved, _as_list(self.optimizers()), strict=True):
            scheduler = schedulers.get(id(optimizer.optimizer))
            step = step_of(optimizer, self, self.trainer)
            self._steppers[learned.name] = Stepper(step, learned.network, scheduler)
            if self.gradient_steps and scheduler and all(group["lr"] == 0.0 for group in optimizer.param_groups):
                rank_zero_warn(
                    f"{learned.name}_scheduler={type(scheduler).__name__} has come to rate 0, so {learned.name} "
                    "learns no more: make it longer, or give an EnvStepsLR over the whole run"
                )
        self._hooks = self._hooks_of_callbacks("on_gradient_step_end")
        self._first_hooks = self._hooks_of_callbacks("on_first_gradients")
        self._first_end_hooks = self._hooks_of_callbacks("on_first_gradients_end")

    def _hooks_of_callbacks(self, name: str) -> list[Callable[..., None]]:
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return [getattr(callback, name) for callback in callbacks if hasattr(callback, name)]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One training batch, at the learning rates of this time."""
        for scheduler in self._follow_clock:
            scheduler.follow(self.clock)
        with traced_to_divergence(self.check_finite):
            self.learn(batch)

    def on_train_end(self) -> None:
        """A run that has diverged since the last row ends with that error."""
        self.check_finite()

    def compute_gradients(self, *batch: Any) -> Gradients:
        """`gradients`, as `compute` runs it: averaged over processes."""
        return self.compute(self.gradients, *batch)

    def compute(self, gradients: Callable[..., Gradients], *batch: Any) -> Gradients:
        """What `gradients` finds, as one compiled graph unless `compile` is off, without the graph it was found by.

        Of several processes each finds its own; gradients and `approx_kl` are the mean of all, in one exchange.
        With CUDA graphs the gradients themselves are good until the next call.
        """
        name = gradients.__qualname__
        if is_first := name not in self._computes:
            for on_first_gradients in self._first_hooks:
                on_first_gradients(self.trainer, self, gradients, batch)
            run = detached(gradients)
            if self.compile_gradients:
                run = compiled_or_eager(run, self.device)
                run = kept(run) if writes_over_results(self.device) else run
            self._computes[name] = run
        metrics, of, td_error, approx_kl = self._computes[name](*batch)
        if is_first:
            for on_first_gradients_end in self._first_end_hooks:
                on_first_gradients_end(self.trainer, self)
        found = Gradients(of, metrics, td_error, approx_kl)
        return found if self._processes == 1 else found.averaged(self.mean_over_processes)

    def step(self, name: str, found: Gradients) -> None:
        """Move the learned network of this name by its gradients; its schedule moves on.

        Nothing of it happens while the network is frozen.
        """
        if not self.is_frozen(name):
            self._steppers[name](found.of[name])

    def end_gradient_step(self, found: Gradients) -> None:
        """Note the metrics, and call `on_gradient_step_end`: now `PolyakAveraging` lets targets follow."""
        self.metrics.update(found.metrics)
        self.gradient_steps += 1
        self.moved_online_networks = not self._online.isdisjoint(found.of)
        for on_gradient_step_end in self._hooks:
            on_gradient_step_end(self.trainer, self)

    def check_finite(self) -> None:
        """Stop where a loss or a weight is not finite any more: at every row, evaluation and checkpoint.

        Raises:
            Divergence: naming the network and the loss.
        """
        learned = {name: each.network for name, each in self._learned.items()}
        check_finite(self, learned, self.metrics, self.env_steps)

    def mean_over_processes(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The mean of each tensor over all processes, in one exchange."""
        if self._processes == 1:
            return tensors
        # not by Lightning's strategy, whose processes wait for each other before they exchange too
        mean = self._mean_of_all([tensor.flatten() for tensor in tensors])
        parts = torch.split(mean, [tensor.numel() for tensor in tensors])
        return tuple(part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True))

    def gather(self, tensor: Tensor) -> Tensor:
        """A tensor [...] of this process to those of all processes, [processes, ...]."""
        if self._processes == 1:
            return tensor.unsqueeze(0)
        gathered = self.all_gather(tensor)
        assert isinstance(gathered, Tensor)
        return gathered

    # Evaluation

    def on_validation_start(self) -> None:
        """Evaluate no learner that has diverged: the argmax of NaN is an action too."""
        self._check_policy()

    def on_test_start(self) -> None:
        """As before any evaluation."""
        self._check_policy()

    def on_predict_start(self) -> None:
        """As before any evaluation."""
        self._check_policy()

    def _check_policy(self) -> None:
        self.check_finite()
        if not self.has_loaded and not self.gradient_steps and self.trainer.state.fn != "fit":
            rank_zero_warn(
                f"{type(self).__name__} is evaluated with the random weights it was made with: train it first, or give "
                "ckpt_path or load_weights a checkpoint"
            )

    def validation_step(self, seeds: Sequence[int], batch_idx: int) -> None:
        """Play one episode for each seed with the deterministic policy."""
        self._play(seeds)

    def test_step(self, seeds: Sequence[int], batch_idx: int) -> None:
        """Play one episode for each seed with the deterministic policy."""
        self._play(seeds)

    def predict_step(self, seeds: Sequence[int], batch_idx: int) -> list[Episode]:
        """Record one episode for each seed, played with the deterministic policy."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        act, envs = self.act_deterministically, data.eval_envs()
        with traced_to_divergence(self.check_finite):
            episodes = [record_episode(act, envs, seed, data.eval_limit) for seed in seeds]
        data.warn_of_cut_off([len(episode.reward) for episode in episodes])
        return episodes

    def on_validation_epoch_end(self) -> None:
        """Log the returns of all processes' episodes."""
        self._log_episodes("val")

    def on_test_epoch_end(self) -> None:
        """Log the returns of all processes' episodes."""
        self._log_episodes("test")

    def act_deterministically(self, obs: Obs) -> Tensor:
        """The actions of evaluation for observations [B, *obs_shape], on the CPU or the learner's device."""
        return finite(self.act(to_device(obs, self.device), deterministic=True))

    def _play(self, seeds: Sequence[int]) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        with traced_to_divergence(self.check_finite):
            returns, lengths = play_episodes(self.act_deterministically, data.eval_envs(), seeds, data.eval_limit)
        data.warn_of_cut_off(lengths.tolist())
        self._episodes.update(returns.to(self.device), lengths.to(self.device))

    def _log_episodes(self, stage: str) -> None:
        row = {f"{stage}/{name}": value for name, value in self._episodes.compute().items()}
        self._episodes.reset()
        row["env_steps"] = float(self.env_steps)
        if self.trainer.loggers:
            row["step"] = float(self.env_steps)  # what Lightning takes for the loggers' x-axis
        self.log_dict(row, sync_dist=True)  # all have the same already; or Lightning warns of each

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note whose checkpoint it is, and which optimizer is of which network.

        Raises:
            Divergence: where weights or moments are not finite; nothing is written then.
        """
        self.check_finite()
        if states := checkpoint.get("optimizer_states"):
            check_optimizer_states(states, self._described, self.env_steps)
        checkpoint[KEY] = {
            **self.signature,
            "schema": SCHEMA,
            "gradient_steps": self.gradient_steps,
            "env_steps": self.env_steps,
            "learned": {} if states == [] else self._described,  # a trainer that only evaluates has no optimizers
            "logged": logger.state_dict() if (logger := self._metrics_csv()) else None,
            "policy": self.policy_description(),
        }

    @property
    def signature(self) -> dict[str, str]:
        """What a checkpoint must agree with to be of this learner."""
        return signature(type(self).__name__, self.observation_space, self.action_space)

    def policy_network(self) -> PolicyNetwork:
        """The network that `act` acts by, with the learner's own weights.

        Raises:
            UsageError: a learner that does not say in `acts_by` which it is.
        """
        acts = next(cls for cls in type(self).__mro__ if "act" in vars(cls))
        advice = f"say in {acts.__name__} which attribute is the network that its act acts by"
        require("acts_by" in vars(acts) and self.acts_by is not None, "acts_by", None, advice)
        assert self.acts_by is not None
        return PolicyNetwork.of(getattr(self, self.acts_by), self.normalizer)

    def policy_description(self) -> State:
        """What `load_policy` and `export_policy` need to know of the policy beside its weights; data alone."""
        trainer = self.trainer if self.clock.total else None  # none has set it up
        data = getattr(trainer, "datamodule", None)
        metrics = {name: float(value) for name, value in (trainer.callback_metrics if trainer else {}).items()}
        evaluated = {name: value for name, value in metrics.items() if name.startswith(("val/", "env_steps"))}
        evaluation = {name: value for name, value in evaluated.items() if math.isfinite(value)}
        action_space = getattr(data, "own_action_space", self.action_space)
        return {
            "algorithm": type(self).__name__,
            "env_id": getattr(data, "env_id", None),
            "env_kwargs": plain(getattr(data, "env_kwargs", {})),
            "wrappers": plain(getattr(data, "described_wrappers", [])),
            **describe(self, self.policy_network, self.observation_space, action_space),
            "training": {
                "env_steps": self.env_steps,
                "gradient_steps": self.gradient_steps,
                "evaluation": evaluation or None,
            },
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another learner's checkpoint; of optimizers and schedulers take the state, not the settings."""
        check_signature(checkpoint.get(KEY, {}), self.signature, "to load")
        path = str(self.trainer.ckpt_path) if self.clock.total else "to load"
        check_networks(checkpoint["state_dict"], self.state_dict(), path)
        self.gradient_steps = checkpoint[KEY]["gradient_steps"]
        if self.clock.total == 0:  # no trainer has set this learner up
            return
        self.clock.env_steps = checkpoint[KEY]["env_steps"]
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping) and callback.state_key in checkpoint.get("callbacks", {}):
                checkpoint["callbacks"][callback.state_key]["patience"] = callback.patience  # a setting too
        if self.trainer.state.fn == "fit":  # evaluation has no optimizers
            check_resumable(checkpoint, str(self.trainer.ckpt_path))
            own = {name: learned.make() for name, learned in with_parameters(self._learned).items()}
            continue_optimizers(checkpoint, checkpoint[KEY]["learned"], own)
            self._check_rates(own, checkpoint, self.clock)
            if (logger := self._metrics_csv()) and (logged := checkpoint[KEY].get("logged")):
                logger.load_state_dict(logged)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, weights_only: bool | None = True, **arguments: Any
    ) -> Self:
        """A learner made of the arguments, with the networks of a checkpoint, which has no say in what is made.

        Args:
            checkpoint_path: a file or URL.
            weights_only: a checkpoint is data; True.
            **arguments: of the class.

        Raises:
            UsageError: as of `load_weights`.
        """
        require(weights_only is not False, "weights_only", weights_only, "a checkpoint is data; leave it out")
        learner = cls(**arguments)
        learner.load_weights(checkpoint_path)
        return learner

    def check_learns_on(self, checkpoint: State, total_env_steps: int) -> None:
        """Refuse to go on where all schedules have come to rate 0 for the rest of the run.

        Args:
            checkpoint: to go on from; it is left as it is.
            total_env_steps: of the run that goes on.

        Raises:
            UsageError: naming the schedulers.
        """
        clock, found = Clock(total_env_steps), {**checkpoint}
        clock.env_steps = found[KEY]["env_steps"]
        own = {name: learned.make() for name, learned in with_parameters(self._learned).items()}
        continue_optimizers(found, found[KEY]["learned"], own)
        self._check_rates(own, found, clock)

    def _check_rates(self, own: dict[str, Continued], found: State, clock: Clock) -> None:
        optimizers, schedulers = dict(zip(own, found["optimizer_states"], strict=True)), iter(found["lr_schedulers"])
        scheduled = {name: next(schedulers) for name, one in own.items() if one.scheduler}
        ended = [name for name, state in scheduled.items() if has_ended(own[name], optimizers[name], state, clock)]
        if ended and len(ended) == len(own) and not self.steps_without_optimizer:
            names = ", ".join(f"{name}_scheduler={type(own[name].scheduler).__name__}" for name in ended)
            raise UsageError(
                f"{names} has come to rate 0 for the rest of the run, in which nothing would be learned: make it "
                "longer, or give an EnvStepsLR over the whole run"
            )

    def _metrics_csv(self) -> MetricsCSV | None:
        return next((logger for logger in self.trainer.loggers if isinstance(logger, MetricsCSV)), None)

    def load_weights(self, path: str | Path, parts: Sequence[str] | None = None) -> None:
        """Start from saved networks; optimizers, counters and replay start fresh, given settings stay.

        Args:
            path: a run folder, whose best.ckpt or else last.ckpt is taken; a checkpoint's file or URL; or the folder of
                an export, which holds a policy and the statistics of its observations, and nothing else.
            parts: the networks to take, by their names here, with their targets; `normalizers` and `temperature` too.
                They may be another algorithm's. None takes all, of the same algorithm.

        Raises:
            UsageError: where it is missing, damaged, not ours, or of other spaces or networks; an unknown part.
        """
        names = names_in(self, self._declared, self._targets)
        own = self.state_dict()
        if is_export(path):
            own |= exported_weights(path, parts, own, names, self.signature, self.policy_description())
        else:
            own |= initial_weights(path, parts, own, names, self.signature)
        self.load_state_dict(own)


def _note_weights(learner: nn.Module, _: object) -> None:
    learner.has_loaded = True  # type: ignore[assignment]


def _as_list(items: Any) -> list[Any]:
    """What `optimizers()` and `lr_schedulers()` return: none, one or several."""
    if items is None:
        return []
    return items if isinstance(items, list) else [items]
