import io

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Sequence, Tuple
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_lightning import ReplayBuffer, UsageError
from rl_lightning.data.replay import layout
from rl_lightning.data.replay.buffer import Stored
from rl_lightning.types import map_obs

OBS = Box(-np.inf, np.inf, (2,), np.float32)
ACTION = Box(-1.0, 1.0, (3,), np.float32)


def time_step(number: int, num_envs: int) -> tuple[np.ndarray, ...]:
    """Values that tell every field, environment and time step apart."""
    ids = np.arange(num_envs) + number * num_envs
    obs = np.stack([ids, ids + 0.25], axis=1)
    action = np.stack([ids, ids, -ids], axis=1)
    return (
        obs.astype(np.float32), action.astype(np.float32), -ids.astype(float), obs + 0.5, ids % 3 == 0, ids % 5 == 0,
    )  # fmt: skip


def fill(buffer: ReplayBuffer, steps: range) -> None:
    for number in steps:
        buffer.add(*time_step(number, buffer.num_envs))


def make(buffer_size: int, num_envs: int = 1, seed: int = 0, n_step: int = 1, **settings) -> ReplayBuffer:
    return ReplayBuffer(buffer_size, num_envs, OBS, ACTION, seed, n_step, **settings)


def stored_in(buffer: ReplayBuffer) -> dict:
    """Copies of the fields of all that can be sampled, the oldest row first."""
    order = np.arange(buffer.steps - buffer.filled_rows, buffer.steps) % buffer.rows
    return map_obs(lambda field: field[order], buffer.storage._asdict())


def ids_of(buffer: ReplayBuffer) -> list[int]:
    return stored_in(buffer)["obs"][..., 0].flatten().int().tolist()


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
    stored = stored_in(buffer)
    for position, name in enumerate(Stored._fields):
        np.testing.assert_array_equal(stored[name].numpy(), np.stack([row[position] for row in oracle]), name)

    sample, index = buffer.sample(3, 5, gamma=0.5)
    rows = {
        (*o.tolist(), *a.tolist(), float(r), *n.tolist(), bool(t))
        for row in oracle
        for o, a, r, n, t, _ in zip(*row, strict=True)
    }
    for i, o, a, r, n, t in zip(*(field.flatten(0, 1) for field in (index, *sample[:5])), strict=True):
        assert (*o.tolist(), *a.tolist(), r.item(), *n.tolist(), t.item()) in rows
        assert i == o[0]  # it numbers the transitions as they were added
    assert (sample.discount == 0.5).all()
    assert (sample.weight == 1.0).all()


def test_a_sample_is_updates_by_batch_of_copies():
    buffer = make(10, 2)
    fill(buffer, range(3))
    sample, index = buffer.sample(4, 7, 0.9)
    shapes = {name: tuple(field.shape) for name, field in sample._asdict().items()}
    assert shapes == {
        "obs": (4, 7, 2), "action": (4, 7, 3), "reward": (4, 7), "next_obs": (4, 7, 2), "terminated": (4, 7),
        "discount": (4, 7), "weight": (4, 7),
    }  # fmt: skip
    assert index.shape == (4, 7)
    before = ids_of(buffer)
    sample.obs.fill_(-1.0)
    assert ids_of(buffer) == before


@pytest.mark.parametrize("steps", [5, 8, 11])
def test_every_stored_transition_is_drawn_equally_often(steps):
    # a ring of 8 rows: partly filled, just full, and wrapped around
    buffer = make(16, 2)
    fill(buffer, range(steps))
    draws = 40_000
    ids, counts = buffer.sample(draws // 8, 8, 0.9)[0].obs[..., 0].flatten().int().unique(return_counts=True)
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
    first = one.sample(1, 20, 0.9)[0]
    assert torch.equal(torch.get_rng_state(), global_state)
    torch.randn(10)
    assert torch.equal(first.obs, same.sample(1, 20, 0.9)[0].obs)
    assert not torch.equal(first.obs, other.sample(1, 20, 0.9)[0].obs)
    assert not torch.equal(first.obs, one.sample(1, 20, 0.9)[0].obs)


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
    buffer.add(value, np.zeros((1, 3), np.float32), np.array([0.1]), value, np.array([True]), np.array([False]))
    sample, _ = buffer.sample(1, 2, 0.9)
    assert [sample.obs.dtype, sample.next_obs.dtype] == [stored_as, stored_as]
    assert [sample.action.dtype, sample.reward.dtype, sample.terminated.dtype] == [
        torch.float32, torch.float32, torch.bool,
    ]  # fmt: skip
    assert sample.obs[0, 0].tolist() == sample.next_obs[0, 0].tolist() == [7, 99, 50]


def test_images_of_bytes_take_a_byte_an_element():
    buffer = ReplayBuffer(6, 2, Box(0, 255, (3, 8, 8), np.uint8), ACTION)
    needed = 6 * (2 * 3 * 8 * 8 + 4 * 3 + 4 + 2)
    assert needed <= buffer.nbytes <= needed + 6 * 16  # fields may be aligned


def test_what_is_added_is_copied():
    buffer, row = make(4), time_step(3, 1)
    buffer.add(*row)
    for array in row:
        array[:] = 0
    assert ids_of(buffer) == [3]
    assert buffer.sample(1, 1, 0.9)[0].reward.item() == -3


@pytest.mark.parametrize("steps", [3, 5, 12])
def test_a_saved_ring_continues_as_the_original(steps):
    buffer = make(10, 2)
    fill(buffer, range(steps))
    buffer.sample(2, 3, 0.9)
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    restored = make(10, 2, seed=99)
    restored.load_state_dict(torch.load(file, weights_only=True))
    for one, same in zip(
        *(map_obs(torch.Tensor.numpy, b.storage._asdict()).values() for b in (buffer, restored)), strict=True
    ):
        kept = min(steps, buffer.rows)
        np.testing.assert_array_equal(one[:kept], same[:kept])  # in the same places
    for step in range(steps, steps + 9):
        assert ids_of(restored) == ids_of(buffer)
        fill(buffer, range(step, step + 1))
        fill(restored, range(step, step + 1))
    for one, same in zip(buffer.sample(2, 30, 0.9)[0], restored.sample(2, 30, 0.9)[0], strict=True):
        assert torch.equal(one, same)


def test_a_saved_state_is_the_memory_itself_as_far_as_it_is_written():
    buffer = make(1000, 2)
    fill(buffer, range(30))
    memory = buffer.state_dict()["memory"]
    assert memory.data_ptr() == buffer.storage.obs.data_ptr()  # no copy
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    assert file.tell() < memory.nbytes + 10_000  # the rest of the ring is not saved


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
    assert set(restored.sample(1, 200, 0.9)[0].reward.flatten().int().tolist()) == {-6, -7, -8, -9, -10, -11, -12}


def test_a_ring_of_another_number_of_environments_is_refused():
    buffer = make(8, 2)
    fill(buffer, range(3))
    with pytest.raises(UsageError, match=r"obs of shape \(2, 2\) .*\(4, 2\).*num_envs"):
        make(8, 4).load_state_dict(buffer.state_dict())


def test_where_episodes_do_not_go_on_the_newest_row_is_made_the_end_of_one():
    none = np.zeros(2, bool)
    buffer = make(10, 2)
    obs, action, reward, next_obs, _, _ = time_step(0, 2)
    buffer.add(obs, action, reward, next_obs, none, none)
    buffer.add(obs, action, reward, next_obs, np.array([True, False]), none)
    restored = make(10, 2, n_step=3)
    restored.load_state_dict(buffer.state_dict())
    assert not restored.storage.truncated[:2].any()  # they may go on
    restored.end_episodes()
    assert restored.storage.truncated[:2].tolist() == [[False, False], [False, True]]  # a terminal state stays one
    assert restored.storage.terminated[:2].tolist() == [[False, False], [True, False]]
    restored.add(obs, action, np.array([100.0, 100.0]), next_obs, none, none)
    sample, index = restored.sample(1, 300, 0.5)
    assert sample.reward[index < 4].max() < 100
    assert set(sample.discount[index < 2].tolist()) == {0.25}


def test_episodes_can_be_ended_without_a_step_that_says_so():
    none = np.zeros(1, bool)
    buffer = make(10, n_step=2)
    buffer.end_episodes()  # nothing yet: nothing to end
    for number in (1, 2, 3):
        obs, action, reward, next_obs, _, _ = time_step(number, 1)
        buffer.add(obs, action, reward, next_obs, none, none)
        if number == 2:
            buffer.end_episodes()
    sample, index = buffer.sample(1, 200, 1.0)
    assert {(i, r) for i, r in zip(index.flatten().tolist(), sample.reward.flatten().tolist(), strict=True)} == {
        (0, -3.0), (1, -2.0), (2, -3.0),
    }  # fmt: skip


@given(
    num_envs=st.integers(1, 3),
    rows=st.integers(1, 9),
    steps=st.integers(1, 25),
    n_step=st.integers(1, 6),
    gamma=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    reload=st.booleans(),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_n_steps_are_those_of_plain_lists(num_envs, rows, steps, n_step, gamma, reload, data):
    ends = st.lists(st.lists(st.sampled_from("....tu2"), min_size=num_envs, max_size=num_envs), min_size=steps)
    ends = data.draw(ends)[:steps]
    buffer = make(rows * num_envs, num_envs, n_step=n_step)
    buffer.storage.reward.fill_(np.nan)  # memory that was never written may hold anything
    for number, row in enumerate(ends):
        obs, action, _, next_obs, _, _ = time_step(number, num_envs)
        terminated, truncated = np.array([end in "t2" for end in row]), np.array([end in "u2" for end in row])
        buffer.add(obs, action, obs[:, 0] ** 2, next_obs, terminated, truncated)
    if reload:
        saved = buffer.state_dict()
        buffer = make((rows + 2) * num_envs, num_envs, n_step=n_step)
        buffer.load_state_dict(saved)
        buffer.end_episodes()

    sample, index = buffer.sample(2, 40, gamma)
    for i, o, a, r, n, t, d, w in zip(*(field.flatten(0, 1) for field in (index, *sample)), strict=True):
        time, env = divmod(int(i), num_envs)
        total, k = 0.0, 0
        while True:
            total += gamma**k * float(((time + k) * num_envs + env) ** 2)
            k += 1
            if ends[time + k - 1][env] != "." or k == n_step or time + k == steps:
                break
        last = (time + k - 1) * num_envs + env
        assert steps - rows <= time < steps
        assert o[0] == i == a[0]
        assert r.item() == pytest.approx(total)
        assert n.tolist() == [last + 0.5, last + 0.75]
        assert t.item() == (ends[time + k - 1][env] in "t2")
        assert d.item() == pytest.approx(gamma**k)
        assert w.item() == 1.0


def test_an_n_step_return_by_hand():
    buffer = make(10, n_step=3)
    for number, truncated in enumerate([False, False, False, True, False]):
        obs, action, _, next_obs, _, _ = time_step(number, 1)
        buffer.add(obs, action, np.array([10.0**number]), next_obs, np.array([number == 4]), np.array([truncated]))
    sample, index = buffer.sample(1, 300, 0.5)
    fields = (index, sample.reward, sample.next_obs[..., 0], sample.terminated, sample.discount)
    found = {tuple(row) for row in zip(*(field.flatten().tolist() for field in fields), strict=True)}
    assert found == {
        (0, 1 + 5 + 25, 2.5, False, 0.125),
        (1, 10 + 50 + 250, 3.5, False, 0.125),
        (2, 100 + 500, 3.5, False, 0.25),
        (3, 1000, 3.5, False, 0.5),
        (4, 10000, 4.5, True, 0.5),
    }


def test_what_a_sample_gives_can_be_changed_without_changing_the_memory():
    for n_step in (1, 2):
        buffer = make(4, n_step=n_step)
        fill(buffer, range(4))
        before = stored_in(buffer)
        sample, _ = buffer.sample(1, 9, 0.9)
        for field in sample:
            field.zero_()
        for name, field in stored_in(buffer).items():
            assert torch.equal(field, before[name])


DICT = Dict({
    "b": Dict({"image": Box(0, 255, (2, 2, 1), np.uint8), "bits": MultiBinary(3)}),
    "a": Box(-1, 1, (3,), np.float64),
    "n": Discrete(5, start=2),
})  # fmt: skip


@pytest.mark.parametrize("action_space", [Discrete(4), MultiDiscrete([2, 3]), MultiBinary(3), Box(-1, 1, (2,))])
@pytest.mark.parametrize("n_step", [1, 2])
def test_dicts_and_numbers_come_out_as_they_were_put_in(action_space, n_step):
    buffer = ReplayBuffer(12, 2, DICT, action_space, n_step=n_step)
    DICT.seed(0)
    action_space.seed(0)

    def batch(space):
        return [space.sample() for _ in range(2)]

    def stacked(values):
        return map_obs(lambda *parts: np.stack(parts), *values)

    rows = []
    for number in range(9):
        row = stacked(batch(DICT)), np.stack(batch(action_space)), stacked(batch(DICT))
        rows.append(row)
        buffer.add(row[0], row[1], np.zeros(2), row[2], np.full(2, number % 2 == 1), np.zeros(2, bool))
    reloaded = ReplayBuffer(12, 2, DICT, action_space, n_step=n_step)
    reloaded.load_state_dict(buffer.state_dict())
    for each in (buffer, reloaded):
        sample, index = each.sample(3, 8, 0.9)
        dtypes = {"a": torch.float32, "n": torch.int64, "b": {"image": torch.uint8, "bits": torch.int8}}
        assert map_obs(lambda field: field.dtype, sample.obs) == dtypes
        assert sample.obs["b"]["image"].shape == (3, 8, 2, 2, 1)
        assert sample.obs["n"].shape == (3, 8)
        expected = torch.float32 if isinstance(action_space, Box) else torch.from_numpy(rows[0][1]).dtype
        assert sample.action.dtype == expected
        for u, b in np.ndindex(3, 8):
            time, env = divmod(int(index[u, b]), 2)
            last = min(time + n_step - 1, time + 1 - time % 2, 8)
            assert sample.action[u, b].tolist() == rows[time][1][env].tolist()
            for got, obs in ((sample.obs, rows[time][0]), (sample.next_obs, rows[last][2])):
                same = map_obs(
                    lambda value, given, at=(u, b), env=env: np.array_equal(
                        value[at].numpy(), given[env].astype(value.numpy().dtype)
                    ),
                    got,
                    obs,
                )
                assert same == {"a": True, "n": True, "b": {"image": True, "bits": True}}


@pytest.mark.parametrize("space", [Tuple([OBS]), Sequence(OBS), Dict({"a": Tuple([OBS])})])
def test_observations_that_cannot_be_stored_are_refused_in_one_line(space):
    with pytest.raises(UsageError, match=r"^observation space .* is not supported by ReplayDataModule: ") as caught:
        ReplayBuffer(4, 1, space, ACTION)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("space", [Tuple([ACTION]), DICT])
def test_actions_that_cannot_be_stored_are_refused_in_one_line(space):
    with pytest.raises(UsageError, match=r"^action space .* is not supported by ReplayDataModule: ") as caught:
        ReplayBuffer(4, 1, OBS, space)
    assert "\n" not in str(caught.value)


def test_a_million_transitions_of_halfcheetah_take_little_more_than_their_bytes():
    raw = 17 * 4 + 6 * 4 + 4 + 17 * 4 + 1
    for n_step in (1, 3):
        buffer = ReplayBuffer(
            1_000_000, 1, Box(-np.inf, np.inf, (17,), np.float64), Box(-1, 1, (6,), np.float32), n_step=n_step
        )
        assert buffer.nbytes <= 1.05 * raw * 1_000_000


def test_a_file_holds_what_memory_would(tmp_path):
    file = tmp_path / "replay"
    inside, outside = make(10, 2), make(10, 2, file=str(file))
    for buffer in (inside, outside):
        fill(buffer, range(8))
    for one, same in zip(inside.sample(2, 5, 0.9)[0], outside.sample(2, 5, 0.9)[0], strict=True):
        assert torch.equal(one, same)
    assert file.stat().st_size == outside.nbytes


def test_a_file_takes_its_pages_as_they_are_written(tmp_path):
    file = tmp_path / "replay"
    buffer = make(1_000_000, file=str(file))
    fill(buffer, range(10))
    assert file.stat().st_size == buffer.nbytes > 30e6
    assert file.stat().st_blocks * 512 < 1e6


def test_a_file_that_cannot_be_new_is_refused_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "there").write_text("precious")
    with pytest.raises(UsageError, match=r"^buffer_file='.*there' is not allowed: it exists already; give a new file"):
        make(10, file=str(tmp_path / "there"))
    assert (tmp_path / "there").read_text() == "precious"
    with pytest.raises(UsageError, match=r"^buffer_file='.*nowhere/file' is not allowed: it cannot be made"):
        make(10, file=str(tmp_path / "nowhere" / "file"))
    monkeypatch.setattr(layout.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 100}))
    with pytest.raises(UsageError, match=r"^buffer_file='.*full' is not allowed: 400 bytes may be needed there, 100 "):
        make(10, file=str(tmp_path / "full"))
    assert not (tmp_path / "full").exists()
    with pytest.raises(UsageError, match=r"^buffer_file='x' is not allowed: a file cannot be memory of a device"):
        make(10, file="x", device=torch.device("cuda"))


@pytest.mark.parametrize(
    ("space", "names"),
    [
        (Box(-1, 1, (3,), np.float32), "obs of shape .2, 2. torch.float32 .* shape .2, 3. torch.float32"),
        (Box(0, 9, (2,), np.uint8), "obs of shape .2, 2. torch.float32 .* shape .2, 2. torch.uint8"),
        (Dict({"a": OBS}), "obs.a of no shape .* shape .2, 2."),
    ],
)
def test_a_ring_of_other_observations_is_refused(space, names):
    buffer = make(8, 2)
    fill(buffer, range(3))
    with pytest.raises(UsageError, match=names) as caught:
        ReplayBuffer(8, 2, space, ACTION).load_state_dict(buffer.state_dict())
    assert "\n" not in str(caught.value)
