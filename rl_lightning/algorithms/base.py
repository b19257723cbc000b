"""What an algorithm is: how it acts, what it learns, and in which order.

What stands behind that is the same for all learners, and lies in `rl_lightning.algorithms.shared`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import gymnasium as gym
import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor, nn

from rl_lightning.algorithms.shared.acting import begin_acting, load_state_of_acting, state_of_acting
from rl_lightning.algorithms.shared.callbacks import lacking, of_every_learner
from rl_lightning.algorithms.shared.computing import as_run
from rl_lightning.algorithms.shared.divergence import check_finite, finite, traced_to_divergence
from rl_lightning.algorithms.shared.evaluation import Evaluation, record, warn_of_random_weights
from rl_lightning.algorithms.shared.frozen import Frozen
from rl_lightning.algorithms.shared.hooks import TAKES_PART_IN, Hooks
from rl_lightning.algorithms.shared.initial_weights import initial_weights, names_in, note_weights
from rl_lightning.algorithms.shared.kinds import check_actions, check_learns_from
from rl_lightning.algorithms.shared.learned import Gradients, Learned, Metrics, grad, grads
from rl_lightning.algorithms.shared.optimizers import Optimizers
from rl_lightning.algorithms.shared.policy import describe_policy, network_of_act
from rl_lightning.algorithms.shared.precision import warn_of_emulation
from rl_lightning.algorithms.shared.processes import Processes
from rl_lightning.algorithms.shared.ranges import check_ranges
from rl_lightning.algorithms.shared.resuming import check_fits, go_on
from rl_lightning.algorithms.shared.threads import warn_of_crowd
from rl_lightning.algorithms.shared.trainer_settings import check_trainer
from rl_lightning.callbacks import PolyakAveraging
from rl_lightning.callbacks.environment_interaction import environment_data
from rl_lightning.callbacks.metrics_csv import metrics_csv_of
from rl_lightning.checkpoints import KEY, SCHEMA, signature
from rl_lightning.checkpoints.io import keep_checkpoints_whole
from rl_lightning.data.base import EnvironmentDataModule
from rl_lightning.data.replay.datamodule import ReplayDataModule
from rl_lightning.errors import UsageError, check_overrides, require
from rl_lightning.exploration import ActionNoise
from rl_lightning.networks.normalization import ObservationNormalizer, ReturnNormalizer, observe
from rl_lightning.policies.network import PolicyNetwork
from rl_lightning.schedules import Clock
from rl_lightning.spaces import Actions
from rl_lightning.types import Episode, Obs, Rollout, State, Transition, to_device

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
        UsageError: an action space of another kind, a discount out of range, normalized observations where there are
            none to normalize, or a hook of Lightning's that is overridden without a call of what is done in it here.
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
        kinds = {each.__name__: each.acts_in for each in Algorithm.__subclasses__()}
        check_actions(action_space, type(self).__name__, self.acts_in, kinds)
        check_overrides(type(self), Algorithm, TAKES_PART_IN)
        self.automatic_optimization = False
        self.observation_space, self.action_space = observation_space, action_space
        self.gamma, self.compile_gradients = gamma, compile
        # statistics of time steps that come one by one: in float32 a million of them outweigh the next
        self.normalizer = ObservationNormalizer(observation_space).double() if normalize_observations else None
        self.return_normalizer = ReturnNormalizer(gamma).double() if normalize_returns else None
        self.gradient_steps, self.clock, self.moved_online_networks = 0, Clock(0), False
        self.metrics: Metrics = {}
        self.has_loaded = False
        self.register_load_state_dict_post_hook(note_weights)  # type: ignore[no-untyped-call]
        self._declared: dict[str, nn.Module] = {}  # networks by name, also those that no optimizer moves
        self._targets: list[tuple[nn.Module, nn.Module]] = []
        self._online: set[str] = set()  # names of the learned networks that have a target
        self._optimizers, self.frozen = Optimizers(), Frozen(self._declared, self.learns)
        self._computes: dict[str, Callable[..., Gradients]] = {}
        self._evaluation, self._processes, self._hooks = Evaluation(), Processes(), Hooks()
        self._callbacks = of_every_learner()

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
        check_learns_from(data, type(self).__name__, self.learns_from, self.takes_critic)

    # Its networks

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
            self._optimizers.add(Learned(name, network, optimizer, scheduler))
        return network

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
        self.polyak_averaging.check_pace(tau, target_update_interval)
        self._online |= {name for name, each in self._optimizers.networks.items() if each is network}
        target = deepcopy(network).requires_grad_(False)
        self._targets.append((network, target))
        return target

    def target_networks(self) -> list[tuple[nn.Module, nn.Module]]:
        """Pairs (online, target) for `PolyakAveraging` to follow."""
        return self._targets

    def learns(self, name: str) -> bool:
        """Whether the network of this name is moved."""
        return name in self._optimizers.learned

    def is_frozen(self, name: str) -> bool:
        """Whether the network of this name takes no steps now."""
        return self.frozen.has(name, self.clock.env_steps)

    def frozen_networks(self) -> list[nn.Module]:
        """The networks that take no steps now, whose targets do not follow either."""
        return self.frozen.networks(self.clock.env_steps)

    # The training step

    @property
    def env_steps(self) -> int:
        """Environment steps taken so far."""
        return self.clock.env_steps

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One training batch, at the learning rates of this time."""
        self._optimizers.follow(self.clock)
        with traced_to_divergence(self.check_finite):
            self.learn(batch)

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
            self._hooks.call("on_first_gradients", gradients, batch)
            self._computes[name] = as_run(gradients, self.device, self.compile_gradients)
        found = self._computes[name](*batch)
        if is_first:
            self._hooks.call("on_first_gradients_end")
        return found if self._processes.count == 1 else found.averaged(self.mean_over_processes)

    def step(self, name: str, found: Gradients) -> None:
        """Move the learned network of this name by its gradients; its schedule moves on.

        Nothing of it happens while the network is frozen.
        """
        if not self.is_frozen(name):
            self._optimizers.step(name, found.of[name])

    def end_gradient_step(self, found: Gradients) -> None:
        """Note the metrics, and call `on_gradient_step_end`: now `PolyakAveraging` lets targets follow."""
        self.metrics.update(found.metrics)
        self.gradient_steps += 1
        self.moved_online_networks = not self._online.isdisjoint(found.of)
        self._hooks.call("on_gradient_step_end")

    def check_finite(self) -> None:
        """Stop where a loss or a weight is not finite any more: at every row, evaluation and checkpoint.

        Raises:
            Divergence: naming the network and the loss.
        """
        check_finite(self, self._optimizers.networks, self.metrics, self.env_steps)

    def mean_over_processes(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The mean of each tensor over all processes, in one exchange."""
        return self._processes.mean(tensors)

    def gather(self, tensor: Tensor) -> Tensor:
        """A tensor [...] of this process to those of all processes, [processes, ...]."""
        return self._processes.gather(tensor)

    # Normalization

    def normalized(self, obs: Obs) -> Obs:
        """Observations [B, *obs_shape] as all networks of a learner from replay see them."""
        return obs if self.normalizer is None else self.normalizer(obs)

    def normalized_batch(self, batch: Transition) -> Transition:
        """A minibatch of replay, which keeps it raw, as networks and targets see it, with the statistics so far."""
        reward = batch.reward if self.return_normalizer is None else self.return_normalizer(batch.reward)
        return batch._replace(obs=self.normalized(batch.obs), next_obs=self.normalized(batch.next_obs), reward=reward)

    def observe(self, rollouts: Iterable[Rollout]) -> None:
        """Let new time steps, [T, N, ...] on any device, enter the running statistics, where there are any."""
        observe(rollouts, self.normalizer, self.return_normalizer, self.device, self.gather)

    # A run, as Lightning asks for it

    def setup(self, stage: str) -> None:
        """Refuse what cannot train, then choose how `gradients` runs. A run starts at zero, unless it is resumed.

        Checkpoints become `AtomicCheckpointIO`'s, unless the trainer was given a plugin for them.
        """
        if not hasattr(self, "gradients"):
            raise UsageError(f"{type(self).__name__} has no gradients: define it, as docs/extending.md shows")
        strategy, data = self.trainer.strategy, self.trainer.datamodule  # type: ignore[attr-defined]
        warn_of_emulation(self.trainer.precision, strategy.root_device)
        keep_checkpoints_whole(strategy)
        self.check_data(data)
        self.clock, self._processes, self._computes = data.clock, Processes(self.trainer), {}
        if stage == "fit":
            self.gradient_steps, self.metrics = 0, {}
            self.clock.env_steps, self.clock.interrupted = 0, 0
            self.frozen.begin(type(self).__name__)
            warn_of_crowd(strategy.root_device)

    def configure_callbacks(self) -> list[Callback]:
        """The callbacks this learner cannot run without; one that the trainer has already, the user's own, stays.

        Raises:
            UsageError: settings of the trainer that cannot be followed; loggers have made no folders yet.
        """
        stage = self.trainer.state.fn
        check_trainer(self.trainer, str(stage and stage.value), self, self.trainer.datamodule)  # type: ignore[attr-defined]
        return lacking(self.trainer.callbacks, [*self._callbacks, self.polyak_averaging])  # type: ignore[attr-defined]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer for each learned network, in the order in which they were declared."""
        return self._optimizers.configured()

    def on_fit_start(self) -> None:
        """Policies that learn from what they have done do so in the mode that they act in; episodes begin anew."""
        begin_acting(self, self.noise)

    def on_train_start(self) -> None:
        """Bring each learned network and its optimizer together; new statistics take in all that replay holds."""
        if any(each is not None and each.is_new for each in (self.normalizer, self.return_normalizer)):
            self.trainer.datamodule.observed = 0  # type: ignore[attr-defined]
        self._optimizers.attach(self, self.clock, goes_on=self.gradient_steps > 0)
        self._hooks = Hooks(self.trainer, self)

    def on_train_end(self) -> None:
        """A run that has diverged since the last row ends with that error."""
        self.check_finite()

    def acting_state(self) -> State:
        """What one step of acting leaves to the next, and the metrics of the latest gradient step."""
        return state_of_acting(self, self.noise, self.metrics)

    def load_acting_state(self, state: State, episodes_go_on: bool) -> None:
        """Go on from a saved state of acting; with new episodes their returns begin anew."""
        self.metrics = load_state_of_acting(state, self, self.noise, episodes_go_on)

    # Evaluation

    def act_deterministically(self, obs: Obs) -> Tensor:
        """The actions of evaluation for observations [B, *obs_shape], on the CPU or the learner's device."""
        return finite(self.act(to_device(obs, self.device), deterministic=True))

    def on_validation_start(self) -> None:
        """Evaluate no learner that has diverged: the argmax of NaN is an action too. Begin with new environments.

        What one keeps beyond a seeded reset, as a wrapper with random numbers of its own does, would else be other than
        in a run that goes on from a checkpoint.
        """
        self.check_finite()
        environment_data(self.trainer).close_eval_envs()
        if not self.has_loaded and not self.gradient_steps and self.trainer.state.fn != "fit":
            warn_of_random_weights(type(self).__name__)

    on_test_start = on_predict_start = on_validation_start

    def validation_step(self, seeds: Sequence[int], batch_idx: int) -> None:
        """Play one episode for each seed with the deterministic policy."""
        with traced_to_divergence(self.check_finite):
            self._evaluation.play(self.act_deterministically, environment_data(self.trainer), seeds, self.device)

    test_step = validation_step

    def predict_step(self, seeds: Sequence[int], batch_idx: int) -> list[Episode]:
        """Record one episode for each seed, played with the deterministic policy."""
        with traced_to_divergence(self.check_finite):
            return record(self.act_deterministically, environment_data(self.trainer), seeds)

    def on_validation_epoch_end(self) -> None:
        """Log the returns of all processes' episodes."""
        self._evaluation.report(self, "val", self.env_steps)

    def on_test_epoch_end(self) -> None:
        """Log the returns of all processes' episodes."""
        self._evaluation.report(self, "test", self.env_steps)

    # Checkpoints

    @property
    def signature(self) -> dict[str, str]:
        """What a checkpoint must agree with to be of this learner."""
        return signature(type(self).__name__, self.observation_space, self.action_space)

    @property
    def _run(self) -> Trainer | None:
        """The trainer that has set this learner up, if any."""
        return self.trainer if self.clock.total else None

    def policy_network(self) -> PolicyNetwork:
        """The network that `act` acts by, with the learner's own weights.

        Raises:
            UsageError: a learner that does not say in `acts_by` which it is.
        """
        return network_of_act(self, self.acts_by, self.normalizer)

    def policy_description(self) -> State:
        """What `load_policy` and `export_policy` need to know of the policy beside its weights; data alone."""
        return describe_policy(self, self.policy_network, (self.observation_space, self.action_space), self._run)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note whose checkpoint it is, and which optimizer is of which network.

        Raises:
            Divergence: where weights or moments are not finite; nothing is written then.
        """
        self.check_finite()
        checkpoint[KEY] = {
            **self.signature,
            "schema": SCHEMA,
            "gradient_steps": self.gradient_steps,
            "env_steps": self.env_steps,
            "learned": self._optimizers.described_in(checkpoint, self.env_steps),
            "logged": logger.state_dict() if (logger := metrics_csv_of(self.trainer)) else None,
            "policy": self.policy_description(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another learner's checkpoint; of optimizers and schedulers take the state, not the settings."""
        check_fits(checkpoint, self.signature, self.state_dict(), self._run)
        self.gradient_steps = checkpoint[KEY]["gradient_steps"]
        if self._run is not None:
            go_on(checkpoint, self._run, self.clock, self._optimizers, alone=not self.steps_without_optimizer)

    def check_learns_on(self, checkpoint: State, total_env_steps: int) -> None:
        """Refuse a checkpoint, left as it is, whose schedules have all come to rate 0 in a run of this length.

        Raises:
            UsageError: naming the schedulers.
        """
        clock = Clock(total_env_steps)
        clock.env_steps = checkpoint[KEY]["env_steps"]
        self._optimizers.go_on({**checkpoint}, clock, alone=not self.steps_without_optimizer)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, weights_only: bool | None = True, **arguments: Any
    ) -> Self:
        """A learner made of its arguments, with the networks of a checkpoint, a file or URL, which says nothing else.

        Raises:
            UsageError: as of `load_weights`; `weights_only=False`, since a checkpoint is data.
        """
        require(weights_only is not False, "weights_only", weights_only, "a checkpoint is data; leave it out")
        learner = cls(**arguments)
        learner.load_weights(checkpoint_path)
        return learner

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
        own, names = self.state_dict(), names_in(self, self._declared, self._targets)
        own |= initial_weights(path, parts, own, names, self.signature, self.policy_description)
        self.load_state_dict(own)
