import io

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_lightning import ReplayBuffer, UsageError

OBS = Box(-np.inf, np.inf, (2,), np.float32)
ACTION = Box(-1.0, 1.0, (3,), np.float32)


def time_step(number: int, num_envs: int) -> tuple[np.ndarray, ...]:
    """Values that tell every field, environment and time step apart."""
    ids = np.arange(num_envs) + number * num_envs
    obs = np.stack([ids, ids + 0.25], axis=1)
    action = np.stack([ids, ids, -ids], axis=1)
    return obs.astype(np.float32), action.astype(np.float32), -ids.astype(float), obs + 0.5, ids % 3 == 0


def fill(buffer: ReplayBuffer, steps: range) -> None:
    for number in steps:
        buffer.add(*time_step(number, buffer.num_envs))


def make(buffer_size: int, num_envs: int = 1, seed: int = 0) -> ReplayBuffer:
    return ReplayBuffer(buffer_size, num_envs, OBS, ACTION, seed)


def ids_of(buffer: ReplayBuffer) -> list[int]:
    return buffer.state_dict()["storage"]["obs"][..., 0].flatten().int().tolist()


@given(num_envs=st.integers(1, 4), extra=st.integers(0, 13), steps=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_ring_holds_what_a_list_of_the_newest_rows_holds(num_envs, extra, steps, seed):
    buffer = make(num_envs + extra, num_envs, seed)
    oracle = []
    for number in range(steps):
        row = time_step(number, num_envs)
        buffer.add(*row)
        oracle = [*oracle, row][-((num_envs + extra) // num_envs) :]
        assert len(buffer) == len(oracle) * num_envs <= num_envs + extra
    stored = buffer.state_dict()["storage"]
    for position, name in enumerate(("obs", "action", "reward", "next_obs", "terminated")):
        np.testing.assert_array_equal(stored[name].numpy(), np.stack([row[position] for row in oracle]), name)

    sample = buffer.sample(3, 5)
    rows = {
        (*o.tolist(), *a.tolist(), float(r), *n.tolist(), bool(t))
        for row in oracle
        for o, a, r, n, t in zip(*row, strict=True)
    }
    for o, a, r, n, t in zip(*(field.flatten(0, 1) for field in sample), strict=True):
        assert (*o.tolist(), *a.tolist(), r.item(), *n.tolist(), t.item()) in rows


def test_a_sample_is_updates_by_batch_of_copies():
    buffer = make(10, 2)
    fill(buffer, range(3))
    sample = buffer.sample(4, 7)
    shapes = {name: tuple(field.shape) for name, field in sample._asdict().items()}
    assert shapes == {
        "obs": (4, 7, 2), "action": (4, 7, 3), "reward": (4, 7), "next_obs": (4, 7, 2), "terminated": (4, 7),
    }  # fmt: skip
    before = ids_of(buffer)
    sample.obs.fill_(-1.0)
    assert ids_of(buffer) == before


@pytest.mark.parametrize("steps", [5, 8, 11])
def test_every_stored_transition_is_drawn_equally_often(steps):
    # a ring of 8 rows: partly filled, just full, and wrapped around
    buffer = make(16, 2)
    fill(buffer, range(steps))
    draws = 40_000
    ids, counts = buffer.sample(draws // 8, 8).obs[..., 0].flatten().int().unique(return_counts=True)
    kept = min(steps, 8) * 2
    assert ids.tolist() == list(range(steps * 2 - kept, steps * 2))
    chi_square = ((counts - draws / kept) ** 2 / (draws / kept)).sum().item()
    # mean kept − 1, variance 2 (kept − 1)
    assert abs(chi_square - (kept - 1)) < 4 * (2 * (kept - 1)) ** 0.5


def test_the_sampler_has_a_generator_of_its_own():
    one, same, other = make(50, seed=1), make(50, seed=1), make(50, seed=2)
    for buffer in (one, same, other):
        fill(buffer, range(50))
    global_state = torch.get_rng_state()
    first = one.sample(1, 20)
    assert torch.equal(torch.get_rng_state(), global_state)
    torch.randn(10)
    assert torch.equal(first.obs, same.sample(1, 20).obs)
    assert not torch.equal(first.obs, other.sample(1, 20).obs)
    assert not torch.equal(first.obs, one.sample(1, 20).obs)


@pytest.mark.parametrize(
    ("stored_as", "space_dtype"),
    [
        (torch.float32, np.float64),
        (torch.float32, np.float32),
        (torch.uint8, np.uint8),
        (torch.int64, np.int64),
        (torch.int8, np.int8),
    ],
)
def test_observations_keep_their_dtype_but_float64_which_becomes_float32(stored_as, space_dtype):
    buffer = ReplayBuffer(4, 1, Box(0, 100, (3,), space_dtype), ACTION)  # an odd number, as fields are packed
    value = np.array([[7, 99, 50]], dtype=space_dtype)
    buffer.add(value, np.zeros((1, 3), np.float32), np.array([0.1]), value, np.array([True]))
    sample = buffer.sample(1, 2)
    assert [sample.obs.dtype, sample.next_obs.dtype] == [stored_as, stored_as]
    assert [sample.action.dtype, sample.reward.dtype, sample.terminated.dtype] == [
        torch.float32, torch.float32, torch.bool,
    ]  # fmt: skip
    assert sample.obs[0, 0].tolist() == sample.next_obs[0, 0].tolist() == [7, 99, 50]


def test_images_of_bytes_take_a_byte_an_element():
    buffer = ReplayBuffer(6, 2, Box(0, 255, (3, 8, 8), np.uint8), ACTION)
    needed = 6 * (2 * 3 * 8 * 8 + 4 * 3 + 4 + 1)
    assert needed <= buffer.nbytes <= needed + 6 * 16  # fields may be aligned


def test_what_is_added_is_copied():
    buffer, row = make(4), time_step(3, 1)
    buffer.add(*row)
    for array in row:
        array[:] = 0
    assert ids_of(buffer) == [3]
    assert buffer.sample(1, 1).reward.item() == -3


@pytest.mark.parametrize("steps", [3, 5, 12])
def test_a_saved_ring_continues_as_the_original(steps):
    buffer = make(10, 2)
    fill(buffer, range(steps))
    buffer.sample(2, 3)
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    restored = make(10, 2, seed=99)
    restored.load_state_dict(torch.load(file, weights_only=True))
    for step in range(steps, steps + 9):
        assert ids_of(restored) == ids_of(buffer)
        fill(buffer, range(step, step + 1))
        fill(restored, range(step, step + 1))
    # the order of rows in memory differs, and with it which row an index names; the numbers drawn do not
    assert torch.equal(restored.generator.get_state(), buffer.generator.get_state())


def test_a_saved_state_does_not_change_afterwards():
    buffer = make(4)
    fill(buffer, range(3))
    state = buffer.state_dict()
    fill(buffer, range(3, 9))
    assert state["storage"]["obs"][..., 0].flatten().tolist() == [0, 1, 2]


@pytest.mark.parametrize(("steps", "smaller"), [(7, 3), (25, 7), (9, 9)])
def test_a_smaller_ring_keeps_the_newest(steps, smaller):
    buffer, restored = make(20, 2), make(smaller * 2, 2)
    fill(buffer, range(steps))
    restored.load_state_dict(buffer.state_dict())
    for step in range(steps, steps + smaller + 1):
        kept = min(smaller, step, 10 + step - steps)
        assert ids_of(restored) == list(range((step - kept) * 2, step * 2))
        assert len(restored) == kept * 2
        fill(restored, range(step, step + 1))


def test_a_larger_ring_keeps_all_and_has_room():
    buffer, restored = make(4), make(7)
    fill(buffer, range(9))
    restored.load_state_dict(buffer.state_dict())
    fill(restored, range(9, 13))
    assert ids_of(restored) == [6, 7, 8, 9, 10, 11, 12]
    assert set(restored.sample(1, 200).reward.flatten().int().tolist()) == {-6, -7, -8, -9, -10, -11, -12}


def test_a_ring_of_another_number_of_environments_is_refused():
    buffer = make(8, 2)
    fill(buffer, range(3))
    with pytest.raises(UsageError, match=r"obs of shape \(2, 2\) .*\(4, 2\).*num_envs"):
        make(8, 4).load_state_dict(buffer.state_dict())
