"""A replay buffer is refused where memory does not do, by an estimate that is what it takes."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from toys import counter_data, fit, tiny_sac

from rl_lightning import ReplayDataModule, RolloutReplayDataModule, UsageError
from rl_lightning.data.replay import memory
from rl_lightning.data.replay.buffer import ReplayBuffer
from rl_lightning.data.replay.layout import allocate
from rl_lightning.data.replay.memory import available_memory, bytes_of_buffer, readable, transitions_to_keep
from rl_lightning.data.replay.run_buffer import RunBuffer

GIB = 1024**3


class HugeEnv(gym.Env):
    observation_space = Box(0, 255, (1000, 1000, 3), np.uint8)
    action_space = Box(-1.0, 1.0, (1,), np.float32)


@pytest.mark.parametrize("frame_stack", [1, 4])
@pytest.mark.parametrize("priority_alpha", [0.0, 0.6])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_the_estimate_is_what_a_buffer_takes(frame_stack, priority_alpha, num_envs):
    obs = Box(0, 255, (4, 6, 5), np.uint8)
    space = obs if frame_stack > 1 else Dict({"image": obs, "number": Discrete(3)})
    settings = space, Box(-1, 1, (2,), np.float32)
    buffer = ReplayBuffer(70_001, num_envs, *settings, frame_stack=frame_stack, priority_alpha=priority_alpha)
    tree = buffer._priorities._tree if buffer._priorities else None
    taken = buffer.nbytes + (sum(level.nbytes for level in tree._levels) if tree else 0)
    assert bytes_of_buffer(70_001, num_envs, *settings, frame_stack, priority_alpha) == taken


@pytest.mark.parametrize("kind", [ReplayDataModule, RolloutReplayDataModule])
def test_a_buffer_larger_than_memory_is_refused_with_both_numbers(kind):
    gym.register("Huge-v0", HugeEnv)
    try:
        data = kind("Huge-v0", total_env_steps=10_000_000, buffer_size=1_000_000)
    finally:
        del gym.registry["Huge-v0"]
    with pytest.raises(UsageError, match=r"^buffer_size=1000000 is not allowed: .* needs 5\.5 TiB of memory, .* avail"):
        data.check_memory()
    with pytest.raises(UsageError, match="buffer_size=1000000"):
        data.setup("fit")
    data.setup("test")


def test_a_buffer_is_made_for_no_more_than_the_run_can_fill():
    data = counter_data(num_envs=3, total_env_steps=120, buffer_size=1_000_000)
    fit(tiny_sac(data.observation_space, data.action_space), data)
    assert len(data.buffer) == 120, "nothing was overwritten"
    assert data.buffer.rows * 3 <= 120 + 6
    assert transitions_to_keep(100, most=120, frame_stack=1) == 100
    assert transitions_to_keep(1000, most=120, frame_stack=4) == 240
    assert transitions_to_keep(1000, most=120, frame_stack=1, held=50) == 170


def test_a_run_says_what_its_buffer_will_take_and_is_refused_what_is_not_there(monkeypatch, caplog):
    monkeypatch.setattr(memory, "available_memory", lambda device: 100_000)
    data = counter_data(total_env_steps=994, buffer_size=1_000_000)  # and 2 + 4 more
    with caplog.at_level("INFO"):
        data.setup("fit")
    each = data.buffer.nbytes // data.buffer.rows
    assert f"The replay buffer takes {readable(996 * each)} of memory when it is full" in caplog.text
    monkeypatch.setattr(memory, "available_memory", lambda device: 996 * each - 1)
    with pytest.raises(UsageError, match=r"^buffer_size=1000000 is not allowed: a full buffer of this run needs"):
        counter_data(total_env_steps=994, buffer_size=1_000_000).setup("fit")


def test_what_a_buffer_starts_with_is_in_what_it_says_and_in_what_it_is_refused_for(monkeypatch, caplog, tmp_path):
    first = counter_data(total_env_steps=50)
    fit(tiny_sac(first.observation_space, first.action_space), first)
    torch.save(first.buffer.state_dict(), tmp_path / "buffer.pt")
    second = counter_data(total_env_steps=120, buffer_from=str(tmp_path / "buffer.pt"))
    with caplog.at_level("INFO"):
        second.setup("fit")
    assert second.buffer.rows >= 170
    assert f"The replay buffer takes {readable(second.buffer.nbytes)} of memory when it is full" in caplog.text
    monkeypatch.setattr(memory, "available_memory", lambda device: second.buffer.nbytes - 1)
    with pytest.raises(UsageError, match=r"^buffer_size=1000 is not allowed: a full buffer of this run needs"):
        counter_data(total_env_steps=120, buffer_from=str(tmp_path / "buffer.pt")).setup("fit")


@pytest.mark.parametrize("way", ["buffer_from", "checkpoint"])
def test_what_a_buffer_starts_with_is_kept_beside_what_the_run_gathers(way, tmp_path):
    first = counter_data(total_env_steps=300)
    fit(tiny_sac(first.observation_space, first.action_space), first)
    torch.save(first.buffer.state_dict(), tmp_path / "buffer.pt")
    second = counter_data(
        total_env_steps=120, buffer_from=str(tmp_path / "buffer.pt") if way == "buffer_from" else None
    )
    second.setup("fit")
    if way == "checkpoint":
        second.load_state_dict(first.state_dict())
    assert len(second.buffer) == 300
    assert second.buffer.rows >= 420


@pytest.mark.parametrize("in_file", [False, True])
def test_a_resumed_run_has_as_much_room_as_the_one_that_began_with_another_ones_transitions(in_file, tmp_path):
    def make(name, **settings):
        file = str(tmp_path / name) if in_file else None
        data = counter_data(total_env_steps=120, buffer_file=file, **settings)
        data.setup("fit")
        return data

    first = counter_data(total_env_steps=50)
    fit(tiny_sac(first.observation_space, first.action_space), first)
    torch.save(first.buffer.state_dict(), tmp_path / "buffer.pt")
    begun = make("begun", buffer_from=str(tmp_path / "buffer.pt"))
    resumed = make("resumed")  # the command line takes buffer_from out: the checkpoint has replay
    resumed.load_state_dict(begun.state_dict())
    assert resumed.buffer.rows == begun.buffer.rows >= 170
    assert torch.equal(resumed.buffer.storage.obs[:50], first.buffer.storage.obs[:50])
    again = make("again")
    again.load_state_dict(resumed.state_dict())
    assert again.buffer.rows == begun.buffer.rows
    if in_file:
        assert (tmp_path / "again").stat().st_size == again.buffer.nbytes


@pytest.mark.parametrize(("frame_stack", "files"), [(1, {"replay"}), (4, {"replay", "replay.frames"})])
def test_a_grown_file_takes_the_place_of_the_one_before(frame_stack, files, tmp_path):
    image = Box(0, 255, (4, 6, 5), np.uint8)
    buffer = RunBuffer(1_000, 1, image, Box(-1, 1, (2,), np.float32), frame_stack=frame_stack)
    buffer.begin(10, file=str(tmp_path / "replay"))
    small = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    buffer.begin(100, file=str(tmp_path / "replay"))
    large = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert small.keys() == large.keys() == files
    assert all(large[name] > 3 * small[name] for name in files)


def test_a_file_that_has_to_grow_is_there_until_all_is_copied(tmp_path, monkeypatch):
    first = counter_data(total_env_steps=120, buffer_file=str(tmp_path / "first"))
    fit(tiny_sac(first.observation_space, first.action_space), first)
    second = counter_data(total_env_steps=50, buffer_file=str(tmp_path / "second"))
    fit(tiny_sac(second.observation_space, second.action_space), second)
    kept = (tmp_path / "second").read_bytes()

    def fails(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(ReplayBuffer, "load_state_dict", fails)
        with pytest.raises(OSError, match="no space left"):
            second.load_state_dict(first.state_dict())
    assert (tmp_path / "second").read_bytes() == kept


def test_memory_that_the_system_does_not_give_is_told_in_one_line():
    with pytest.raises(UsageError, match=r"^buffer_size is not allowed: Unable to allocate 1.00 EiB") as caught:
        allocate((2**60,), torch.device("cpu"), None)
    assert "\n" not in str(caught.value)


def test_what_is_available_is_the_least_of_the_machine_and_its_groups(tmp_path, monkeypatch):
    own, info = tmp_path / "cgroup", tmp_path / "meminfo"
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "OWN_CGROUPS", own)
    monkeypatch.setattr(memory, "MEMORY_INFO", info)
    cpu = torch.device("cpu")
    assert available_memory(cpu) is None, "a system that does not say"
    info.write_text(f"MemTotal: 99 kB\nMemAvailable:   {8 * GIB // 1024} kB\n")
    assert available_memory(cpu) == 8 * GIB
    own.write_text("0::/outer/inner\n")
    inner = tmp_path / "groups/outer/inner"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    assert available_memory(cpu) == 8 * GIB
    (inner.parent / "memory.max").write_text(f"{4 * GIB}\n")
    (inner.parent / "memory.current").write_text(f"{3 * GIB}\n")
    (inner.parent / "memory.stat").write_text(f"anon 5\ninactive_file {GIB}\n")
    assert available_memory(cpu) == 2 * GIB
    own.write_text("4:cpu,memory:/job\n")
    job = tmp_path / "groups/memory/job"
    job.mkdir(parents=True)
    (job / "memory.limit_in_bytes").write_text(f"{5 * GIB}\n")
    (job / "memory.usage_in_bytes").write_text(f"{2 * GIB}\n")
    assert available_memory(cpu) == 3 * GIB
    assert readable(3 * GIB) == "3.0 GiB"
    assert readable(17) == "17 bytes"
