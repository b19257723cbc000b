"""A policy as an ONNX graph, from the observations of an environment to its actions; run by onnxruntime."""

import contextlib
import io
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rl_lightning.errors import UsageError, one_line
from rl_lightning.policies.network import PolicyNetwork
from rl_lightning.policies.policy import Policy
from rl_lightning.spaces import TORCH_DTYPES, is_bounded, leaves_of, torch_dtype
from rl_lightning.types import Space, State

OUTPUT = "action"
EXTRA = 'pip install "rl_lightning[onnx]"'


class Graph(nn.Module):
    """Observations, one input for each entry of a Dict, to the likeliest actions in the environment's own scale.

    Args:
        network: of the policy.
        observation_space: of the environment.
        action_space: the environment's own.
    """

    low: Tensor
    high: Tensor

    def __init__(self, network: PolicyNetwork, observation_space: Space, action_space: Space) -> None:
        super().__init__()
        self.network, self.observation_space, self.action_space = network, observation_space, action_space
        if isinstance(action_space, gym.spaces.Box):
            self.register_buffer("low", torch.from_numpy(action_space.low.copy()))
            self.register_buffer("high", torch.from_numpy(action_space.high.copy()))

    def forward(self, inputs: list[Tensor]) -> Tensor:  # noqa: D102
        action: Tensor = self.network(_nested(iter(inputs), self.observation_space))
        match self.action_space:
            case gym.spaces.Box():
                return self._scaled(action)
            case gym.spaces.Discrete():
                return action + int(self.action_space.start)
            case gym.spaces.MultiDiscrete():
                return action + torch.from_numpy(self.action_space.start)
        return action.to(torch_dtype(self.action_space))

    def _scaled(self, action: Tensor) -> Tensor:
        """As `rl_lightning.spaces.learners_actions` has it, in tensors."""
        low, high = self.low, self.high
        assert isinstance(self.action_space, gym.spaces.Box)
        is_unit = (self.action_space.low == -1.0).all() and (self.action_space.high == 1.0).all()
        if is_bounded(self.action_space) and not is_unit:
            action = low + (action + 1.0) * 0.5 * (high - low)
        return action.to(low.dtype).clamp(low, high)


def _nested(inputs: Any, space: Space) -> Any:
    if isinstance(space, gym.spaces.Dict):
        return {key: _nested(inputs, part) for key, part in space.spaces.items()}
    return next(inputs)


def _flat(obs: Any) -> list[Any]:
    return [leaf for part in obs.values() for leaf in _flat(part)] if isinstance(obs, dict) else [obs]


def onnx_bytes(network: PolicyNetwork, observation_space: Space, action_space: Space) -> bytes:
    """The file of a policy's graph, whose inputs and output have a batch dimension of any size.

    Raises:
        UsageError: where the packages are missing, or torch has no ONNX for what the network does.
    """
    for package in ("onnx", "onnxscript"):
        _package(package)
    graph = Graph(network, observation_space, action_space).eval()
    leaves = leaves_of(observation_space)
    example = [_example(leaf) for leaf in leaves.values()]
    batch = torch.export.Dim("batch", min=1, max=2**16)
    shapes = [{0: batch} for _ in example]
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings(), _silence():
        warnings.simplefilter("ignore")
        path = Path(place) / "policy.onnx"
        try:
            torch.onnx.export(
                graph,
                (example,),
                path,
                input_names=[*leaves],
                output_names=[OUTPUT],
                dynamic_shapes={"inputs": shapes},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # of many kinds, by whatever the network does
            reason = one_line(error)[:200]
            raise UsageError(
                f"format='onnx' is not allowed with this network: torch cannot write it ({reason})"
            ) from error
        return path.read_bytes()


def _example(space: Space) -> Tensor:
    """Two observations."""
    start = int(space.start) if isinstance(space, gym.spaces.Discrete) else 0
    return torch.full((2, *(space.shape or ())), start, dtype=torch_dtype(space))


@contextlib.contextmanager
def _silence() -> Any:
    """The exporter tells at length what it does."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def onnx_policy(content: bytes, description: State, observation_space: Space, action_space: Space, path: str) -> Policy:
    """The policy of a graph's file. It is read from memory, so it can name no other file.

    Raises:
        UsageError: where onnxruntime is missing, or cannot read it.
    """
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds, which it does not name in public
        raise UsageError(f"policy {path!r} cannot be read: {one_line(error)[:200]}; export it anew") from error
    names = leaves_of(observation_space)  # in the order in which the graph takes them

    def act(obs: Any, deterministic: bool) -> NDArray[Any]:
        arrays = [array.astype(_dtype(leaf)) for array, leaf in zip(_flat(obs), names.values(), strict=True)]
        action: NDArray[Any] = session.run([OUTPUT], dict(zip(names, arrays, strict=True)))[0]
        return action

    return Policy(description, observation_space, action_space, act)


def _dtype(space: Space) -> Any:
    dtypes = {kind: dtype for dtype, kind in TORCH_DTYPES.items() if dtype != np.float64}
    return dtypes[torch_dtype(space)]


def _package(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise UsageError(f"format='onnx' needs a package that is not installed, {name}: {EXTRA}") from error
