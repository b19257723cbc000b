"""A ring's saved state: a copy of it goes on to the bit, whatever lies in it; those of before schema 1 are read."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from rl_lightning import ReplayBuffer
from rl_lightning.types import map_obs

IMAGES, VECTORS = Box(0, 255, (3, 2, 2), np.uint8), Box(-np.inf, np.inf, (2,), np.float32)


def make(rows: int, num_envs: int, stack: int, alpha: float, seed: int = 0) -> ReplayBuffer:
    space = IMAGES if stack > 1 else VECTORS
    return ReplayBuffer(rows * num_envs, num_envs, space, Discrete(3), seed, 3, stack, alpha)


def play(buffer: ReplayBuffer, steps: range) -> None:
    """Episodes of 1 to 4 steps whose every observation is another; short ones use up the frames of a ring."""
    envs, stack = buffer.num_envs, 3 if buffer._frames else 1
    for step in steps:
        frame = (np.arange(envs)[:, None, None, None] * 7 + step + np.zeros((1, 1, 2, 2))).astype(np.uint8)
        stacked = np.repeat(frame, stack, axis=1)
        obs = stacked if stack > 1 else np.stack([np.arange(envs) + step, np.arange(envs) - step], axis=1)
        ended = (np.arange(envs) + step) % (1 + step // 4 % 4) == 0
        buffer.add(obs, np.full(envs, step % 3), np.full(envs, step / 3), obs + 1, ended, ended & (step % 2 == 0))
        if buffer._priorities:
            _, index = buffer.sample(1, 5, 0.9)
            buffer.update_priorities(index[0], torch.sin(index[0].float()) * step)


def reloaded(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


def assert_go_on_alike(one: ReplayBuffer, other: ReplayBuffer, steps: range) -> None:
    for step in steps:
        (first, index), (second, same) = one.sample(2, 11, 0.9), other.sample(2, 11, 0.9)
        assert torch.equal(index, same)
        for mine, its in zip(first, second, strict=True):
            assert torch.equal(mine, its)
        for buffer in (one, other):
            play(buffer, range(step, step + 1))
        assert (one.filled_rows, one.steps) == (other.filled_rows, other.steps)


@pytest.mark.parametrize("alpha", [0.0, 0.6])
@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("steps", [1, 6, 13, 31])
def test_a_restored_ring_goes_on_to_the_bit_in_the_middle_of_episodes(steps: int, stack: int, alpha: float) -> None:
    buffer, restored = make(12, 3, stack, alpha), make(12, 3, stack, alpha, seed=9)
    play(buffer, range(steps))
    play(restored, range(5))  # what was there before does not matter
    restored.load_state_dict(reloaded(buffer.state_dict()))
    if alpha:
        assert buffer._priorities is not None
        assert restored._priorities is not None
        for mine, its in zip(buffer._priorities._tree._levels, restored._priorities._tree._levels, strict=True):
            assert np.array_equal(mine, its)  # sums included
    assert_go_on_alike(buffer, restored, range(steps, steps + 20))


def test_sums_over_priorities_are_restored_to_the_bit() -> None:
    buffer, restored = make(9_000, 1, 1, 0.6), make(9_000, 1, 1, 0.6)
    play(buffer, range(10_000))
    restored.load_state_dict(reloaded(buffer.state_dict()))
    assert buffer._priorities is not None
    assert restored._priorities is not None
    levels = buffer._priorities._tree._levels
    assert len(levels) > 1
    assert all(np.array_equal(*pair) for pair in zip(levels, restored._priorities._tree._levels, strict=True))


def before_schema_1(buffer: ReplayBuffer) -> dict[str, Any]:
    """The state as it was saved then: fields apart, the oldest row first."""
    order = np.arange(buffer.steps - buffer.filled_rows, buffer.steps) % buffer.rows
    slots = (order[:, None] * buffer.num_envs + np.arange(buffer.num_envs)).flatten()
    state: dict[str, Any] = {
        "storage": map_obs(lambda field: field[order], buffer.storage._asdict()),
        "steps": buffer.steps,
        "generator": buffer.generator.get_state(),
    }
    if (frames := buffer._frames) is not None:
        held = min(int(frames._written.max()), frames.capacity)
        places = (frames._written[:, None] - held + np.arange(held)) % frames.capacity
        state["frames"] = {
            "frames": map_obs(lambda field: field[np.arange(buffer.num_envs)[:, None], places], frames._frames),
            "written": torch.from_numpy(frames._written.copy()),
            "newest": torch.from_numpy(frames._newest[order]),
            "age": torch.from_numpy(frames._age[order]),
        }
    if buffer._priorities:
        powers = torch.from_numpy(buffer._priorities._tree.weights[slots])
        state["priorities"] = {
            "powers": powers,
            "alpha": buffer._priorities.alpha,
            "largest": buffer._priorities.largest,
        }
    return state


@pytest.mark.parametrize("alpha", [0.0, 0.6])
@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize(("steps", "rows"), [(6, 12), (31, 12), (31, 20)])
def test_a_ring_saved_before_schema_1_is_read(steps: int, rows: int, stack: int, alpha: float) -> None:
    buffer, restored = make(12, 3, stack, alpha), make(rows, 3, stack, alpha)
    play(buffer, range(steps))
    restored.load_state_dict(reloaded(before_schema_1(buffer)))
    buffer.end_episodes()  # as they did then
    restored.end_episodes()
    kept = range((steps - buffer.filled_rows) * 3, steps * 3)
    index = torch.tensor([*kept])
    for mine, its in zip(buffer._transitions(index), restored._transitions(index), strict=True):
        if isinstance(mine, torch.Tensor):
            assert torch.equal(mine, its)
    if stack > 1:
        assert buffer._frames is not None
        assert restored._frames is not None
        for ahead in (0, 1):
            mine, its = (b._frames.stacks(b._slot(index), ahead) for b in (buffer, restored))
            assert torch.equal(mine, its)
    if alpha:
        assert buffer._priorities is not None
        assert restored._priorities is not None
        mine, its = (b._priorities._tree.weights[b._slot(index).numpy()] for b in (buffer, restored))
        assert np.array_equal(mine, its)
