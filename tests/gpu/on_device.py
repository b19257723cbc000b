"""The same on the CPU and on a device: learners, minibatches, random numbers, runs."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

import pytest
import torch
from learners import CASES, WITH_CRITIC, Case, called, data_of, made
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from toys import Rows, fit, make_trainer

from rl_lightning import DQN, PPO
from rl_lightning.algorithms.shared.learned import Gradients

IMAGES = [case for case in CASES if case.learner in (DQN, PPO)]
OF_PPO = next(case for case in CASES if case.learner is PPO)
ALL_OPTIONS = {"normalize_observations": True, "normalize_returns": True, "gradient_variance": True, "target_kl": 1.0}
NORMALIZED = OF_PPO._replace(settings=OF_PPO.settings | ALL_OPTIONS)
EVERY = [(case, "vector") for case in [*CASES, *WITH_CRITIC, NORMALIZED]] + [(case, "image") for case in IMAGES]
every = pytest.mark.parametrize(("case", "obs"), EVERY, ids=called)
COMPILED = [(case, obs) for case, obs in EVERY if "compile" in case.arguments]
every_compiled = pytest.mark.parametrize(("case", "obs"), COMPILED, ids=called)


class DrawnOnTheCPU(TorchDispatchMode):
    """Random numbers of every device come from the CPU's generator, so that a seed gives the same ones anywhere."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        given = [leaf for leaf in args if isinstance(leaf, Tensor)]
        device = given[0].device if given else kwargs.get("device") or torch.device("cpu")
        on_cpu = {name: torch.device("cpu") if name == "device" else value for name, value in kwargs.items()}
        drawn = func(*tree_map_only(Tensor, Tensor.cpu, args), **on_cpu)
        return args[0].copy_(drawn) if func.__name__.split(".")[0].endswith("_") else drawn.to(device)


def accelerator(device: torch.device) -> str:
    return "gpu" if device.type == "cuda" else device.type


class Found(NamedTuple):
    gradients: Gradients
    batch: tuple[Any, ...]


def functions(model: Any) -> dict[str, Callable[..., Gradients]]:
    """All that compute gradients of a learner: its own, and those of a critic beside it."""
    critic = getattr(getattr(model, "policy_gradient", None), "critic", None)
    every = [model.gradients] if critic is None else [model.gradients, critic.gradients]
    return {function.__qualname__: function for function in every}


def trained(case: Case, obs: str) -> tuple[Any, dict[str, tuple[Any, ...]]]:
    """A learner after a tiny run on the CPU, and what each of its functions has last been called with."""
    data = data_of(case, obs)
    model, latest = made(case, data), {}
    compute = model.compute

    def noting(gradients, *batch):
        latest[gradients.__qualname__] = batch
        return compute(gradients, *batch)

    model.compute = noting
    fit(model, data)
    assert {*latest} == {*functions(model)}
    return model, latest


def twin(case: Case, obs: str, model: Any, device: torch.device, **settings: Any) -> Any:
    """A new learner with the same weights, on a device."""
    other = made(case, data_of(case, obs), **settings)
    other.load_state_dict(model.state_dict())
    return other.to(device)


def batch_for(model: Any, batch: tuple[Any, ...], device: torch.device) -> tuple[Any, ...]:
    """The same numbers on a device, and the networks of that learner."""
    own = tuple(model.networks if isinstance(part, nn.Module) else part for part in batch)
    return tuple(part if isinstance(part, nn.Module) else move_data_to_device(part, device) for part in own)


def distance(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> float:
    """‖a − b‖ / ‖b‖ of all entries together."""
    a, b = (torch.cat([tensor.detach().cpu().double().flatten() for tensor in tensors]) for tensors in (one, other))
    return ((a - b).norm() / b.norm().clamp(min=1e-8)).item()


class Run(NamedTuple):
    model: Any
    rows: list[dict[str, float]]
    weights: dict[str, Tensor]  # on the CPU


def run(case: Case, obs: str, device: torch.device, seed_steps: bool = False, longer: int = 1, **settings: Any) -> Run:
    """A tiny run, with a row at every batch.

    Args:
        case: the learner.
        obs: of `SpacesEnv`.
        device: where it runs.
        seed_steps: seed torch before gradients are taken, each time anew.
        longer: how many times the case's environment steps.
        settings: of the learner, and `data` and `trainer` with those of theirs.
    """
    torch.manual_seed(2)
    of_data, of_trainer = settings.pop("data", {}), settings.pop("trainer", {})
    data = data_of(case, obs, **{"total_env_steps": longer * case.data["total_env_steps"], **of_data})
    model, rows = made(case, data, **settings), Rows()
    if seed_steps:
        compute, seeds = model.compute, count()

        def seeded(gradients, *batch):
            torch.manual_seed(next(seeds))
            return compute(gradients, *batch)

        model.compute = seeded
    trainer = make_trainer(logger=rows, log_every_n_steps=1, accelerator=accelerator(device), **of_trainer)
    fit(model, data, trainer)
    return Run(model, rows.rows, {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()})


@contextmanager
def without_waiting(device: torch.device) -> Iterator[None]:
    """Inside, an operation for which the CPU waits until the GPU is done is an error."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode may miss some
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
