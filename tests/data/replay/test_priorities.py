import io

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from rl_lightning import Divergence, ReplayBuffer
from rl_lightning.data.replay.priorities import Priorities

OBS, ACTION = Box(-np.inf, np.inf, (1,), np.float32), Discrete(2)


def make(buffer_size: int, num_envs: int = 1, alpha: float = 0.6, seed: int = 0, n_step: int = 1) -> ReplayBuffer:
    return ReplayBuffer(buffer_size, num_envs, OBS, ACTION, seed, n_step, priority_alpha=alpha)


def fill(buffer: ReplayBuffer, steps: range) -> None:
    none = np.zeros(buffer.num_envs, bool)
    for number in steps:
        ids = np.arange(buffer.num_envs, dtype=np.float32)[:, None] + number * buffer.num_envs
        buffer.add(ids, np.zeros(buffer.num_envs, int), ids[:, 0], ids, none, none)


def frequencies(buffer: ReplayBuffer, draws: int = 60_000) -> dict[int, float]:
    sample, index = buffer.sample(1, draws, 0.9)
    assert torch.equal(sample.obs[..., 0].long(), index)
    ids, counts = index.unique(return_counts=True)
    return dict(zip(ids.tolist(), (counts / draws).tolist(), strict=True))


def powers(buffer: ReplayBuffer) -> list[float]:
    """p^α of all that can be sampled, the oldest first."""
    order = np.arange(buffer.steps - buffer.filled_rows, buffer.steps) % buffer.rows
    rows = buffer.state_dict()["priorities"]["powers"].view(-1, buffer.num_envs)
    return rows[order].flatten().tolist()


@pytest.mark.parametrize("steps", [4, 6, 9])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_transitions_are_drawn_in_proportion_to_the_power_of_their_td_error(steps, alpha):
    buffer = make(12, 2, alpha)  # partly filled, just full, wrapped around
    fill(buffer, range(steps))
    kept = range(max(0, steps - 6) * 2, steps * 2)
    td_error = torch.tensor([(-1.0) ** i * (1 + i) ** 2 for i in kept])
    buffer.update_priorities(torch.tensor(kept), td_error)
    p = (td_error.abs() ** alpha / (td_error.abs() ** alpha).sum()).tolist()
    found = frequencies(buffer)
    assert list(found) == list(kept)
    for i, expected in zip(kept, p, strict=True):
        assert found[i] == pytest.approx(expected, abs=5 * (expected * (1 - expected) / 60_000) ** 0.5)


def test_weights_by_hand():
    buffer = make(4, alpha=0.5)
    fill(buffer, range(4))
    td_error = torch.tensor([1.0, 4.0, 9.0, 16.0], dtype=torch.float64) - 1e-6  # p = 1, 4, 9, 16, and p^α = 1, 2, 3, 4
    buffer.update_priorities(torch.arange(4), td_error)
    for beta in (0.0, 0.4, 1.0):
        sample, index = buffer.sample(6, 5, 0.9, beta)
        assert sample.weight.dtype == torch.float32
        weight = (4 * (1 + index) / 10) ** -beta  # (N P)^-β
        torch.testing.assert_close(sample.weight, weight / weight.max(dim=1, keepdim=True).values)


def test_a_td_error_of_zero_is_still_drawn():
    buffer = make(2, alpha=1.0)
    fill(buffer, range(2))
    buffer.update_priorities(torch.tensor([0, 1]), torch.tensor([0.0, 0.0]))
    assert powers(buffer) == [1e-6, 1e-6]


def test_new_transitions_get_the_maximum_so_far_which_is_one_at_first():
    buffer = make(4, alpha=0.5)
    fill(buffer, range(2))
    buffer.update_priorities(torch.tensor([0]), torch.tensor([0.25]))
    fill(buffer, range(2, 3))
    assert powers(buffer) == pytest.approx([0.5, 1.0, 1.0], rel=1e-4)
    buffer.update_priorities(torch.tensor([1]), torch.tensor([-16.0]))
    fill(buffer, range(3, 4))
    buffer.update_priorities(torch.tensor([1]), torch.tensor([1.0]))  # the maximum stays
    fill(buffer, range(4, 5))  # over number 0
    assert powers(buffer) == pytest.approx([1.0, 1.0, 4.0, 4.0], rel=1e-4)


def test_priorities_of_what_has_been_overwritten_are_ignored():
    buffer = make(8, 2)
    fill(buffer, range(4))
    _, index = buffer.sample(1, 30, 0.9)
    fill(buffer, range(4, 6))  # over the numbers 0 to 3
    before = powers(buffer)
    buffer.update_priorities(torch.tensor([0, 1, 2, 3]), torch.full((4,), 1e9))
    assert powers(buffer) == before
    assert buffer.state_dict()["priorities"]["largest"] == 1.0
    buffer.update_priorities(index[0], index[0] + 2.0)
    for number, power in zip(range(4, 12), powers(buffer), strict=True):
        drawn = number in index
        assert power == pytest.approx((number + 2.0) ** 0.6 if drawn else 1.0, rel=1e-5)


def test_of_equal_numbers_the_last_counts():
    buffer = make(3, alpha=1.0)
    fill(buffer, range(3))
    buffer.update_priorities(torch.tensor([1, 1, 0, 1]), torch.tensor([5.0, 6.0, 2.0, 3.0]))
    assert powers(buffer) == pytest.approx([2.0, 3.0, 1.0], rel=1e-5)
    found = frequencies(buffer)
    assert found[1] == pytest.approx(0.5, abs=0.02)


def test_rows_that_were_never_written_are_never_drawn():
    buffer = make(100_000, 3)
    fill(buffer, range(2))
    assert sorted(frequencies(buffer)) == [0, 1, 2, 3, 4, 5]


def test_n_steps_start_from_what_was_drawn():
    buffer = make(10, alpha=1.0, n_step=3)
    fill(buffer, range(8))
    buffer.update_priorities(torch.arange(8), torch.tensor([0.0] * 4 + [1e9] + [0.0] * 3))
    sample, index = buffer.sample(1, 20, 0.5)
    assert (index == 4).all()
    assert sample.reward.unique().tolist() == [4 + 2.5 + 1.5]
    assert (sample.weight == 1.0).all()


def test_a_uniform_buffer_has_no_priorities():
    buffer = make(4, alpha=0.0)
    fill(buffer, range(4))
    with pytest.raises(AssertionError, match="priority_alpha is 0"):
        buffer.update_priorities(torch.tensor([0]), torch.tensor([1.0]))
    assert "priorities" not in buffer.state_dict()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_td_errors_that_are_not_finite_are_refused_in_one_line(bad):
    buffer = make(4)
    fill(buffer, range(4))
    with pytest.raises(Divergence, match="a TD error is not finite") as caught:
        buffer.update_priorities(torch.tensor([0, 1]), torch.tensor([1.0, bad]))
    assert "\n" not in str(caught.value)
    assert powers(buffer) == [1.0] * 4


def test_td_errors_must_be_one_for_each():
    buffer = make(4)
    fill(buffer, range(4))
    with pytest.raises(AssertionError):
        buffer.update_priorities(torch.tensor([0, 1]), torch.ones(2, 1))


@pytest.mark.parametrize("steps", [3, 5, 12])
def test_saved_priorities_continue_as_the_original(steps):
    buffer = make(10, 2)
    fill(buffer, range(steps))
    buffer.update_priorities(*(lambda i: (i, i * 0.37))(buffer.sample(1, 6, 0.9)[1][0]))
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    restored = make(10, 2, seed=99)
    fill(restored, range(20, 27))  # what was there before is gone
    restored.load_state_dict(torch.load(file, weights_only=True))
    for step in range(steps, steps + 9):
        assert powers(restored) == powers(buffer)
        for (one, i), (same, j) in [(buffer.sample(1, 20, 0.9), restored.sample(1, 20, 0.9))]:
            assert torch.equal(i, j)
            assert torch.equal(one.obs, same.obs)
            assert torch.equal(one.weight, same.weight)
        buffer.update_priorities(i[0], i[0] * 1.7)
        restored.update_priorities(i[0], i[0] * 1.7)
        fill(buffer, range(step, step + 1))
        fill(restored, range(step, step + 1))


@pytest.mark.parametrize(("alpha", "maximum"), [(0.5, 4.0), (1.0, 16.0)])
def test_new_transitions_get_the_saved_maximum_also_where_nothing_has_it_any_more(alpha, maximum):
    saved, old = Priorities(4, alpha=0.5), np.array([0, 1])
    saved.fill(old)
    saved.update(np.array([0]), np.array([16.0]))
    saved.update(np.array([0]), np.array([9.0]))
    restored = Priorities(4, alpha)
    restored.load_state_dict(saved.state_dict(2), old, old)
    restored.fill(np.array([2]))
    expected = [3.0 ** (alpha / 0.5), 1.0, maximum]
    assert restored.state_dict(3)["powers"].tolist() == pytest.approx(expected, rel=1e-5)


def test_a_saved_ring_gives_new_transitions_the_maximum_though_it_is_overwritten():
    buffer, restored = make(4, alpha=0.5), make(4, alpha=0.5)
    fill(buffer, range(2))
    buffer.update_priorities(torch.tensor([0]), torch.tensor([16.0]))
    buffer.update_priorities(torch.tensor([0]), torch.tensor([9.0]))
    restored.load_state_dict(buffer.state_dict())
    fill(restored, range(2, 5))  # the last over number 0
    assert powers(restored) == pytest.approx([1.0, 4.0, 4.0, 4.0], rel=1e-5)


def test_a_smaller_ring_keeps_the_newest_priorities():
    buffer, restored = make(20, 2, alpha=1.0), make(6, 2, alpha=1.0)
    fill(buffer, range(9))
    buffer.update_priorities(torch.arange(18), torch.arange(18) + 1.0)
    restored.load_state_dict(buffer.state_dict())
    assert powers(restored) == powers(buffer)[-6:]
    assert sorted(frequencies(restored)) == [12, 13, 14, 15, 16, 17]


def test_another_alpha_is_the_power_of_the_same_priorities():
    buffer, restored = make(4, alpha=0.5), make(4, alpha=1.0)
    fill(buffer, range(3))
    buffer.update_priorities(torch.arange(3), torch.tensor([4.0, 9.0, 16.0]))
    restored.load_state_dict(buffer.state_dict())
    assert powers(restored) == pytest.approx([4.0, 9.0, 16.0], rel=1e-5)


def test_without_saved_priorities_all_get_the_maximum_and_a_uniform_buffer_forgets_them():
    uniform, prioritized = make(4, alpha=0.0), make(4)
    fill(uniform, range(3))
    fill(prioritized, range(4))
    prioritized.update_priorities(torch.arange(4), torch.full((4,), 9.0))
    prioritized.load_state_dict(uniform.state_dict())
    assert powers(prioritized) == pytest.approx([9.0**0.6] * 3)
    assert sorted(frequencies(prioritized)) == [0, 1, 2]
    uniform.load_state_dict(prioritized.state_dict())
    assert sorted(frequencies(uniform)) == [0, 1, 2]


def test_without_saved_priorities_what_the_saved_ring_could_not_sample_is_not_drawn():
    small, uniform, prioritized = make(4, alpha=0.0), make(12, alpha=0.0), make(12)
    fill(small, range(40))
    uniform.load_state_dict(small.state_dict())  # of 12 places 4 are known
    fill(uniform, range(40, 42))
    prioritized.load_state_dict(uniform.state_dict())
    assert sorted(frequencies(prioritized)) == [36, 37, 38, 39, 40, 41]
