"""Environments that die, hang or break are named or replaced, and leave nothing behind."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from faulty import FaultyEnv

from rl_lightning import EnvironmentFault, UsageError, make_vec_env
from rl_lightning.environments.stepping import Episodes
from rl_lightning.environments.vector import Restarts
from rl_lightning.environments.workers import Apart

ACTION = np.zeros((2, 1), np.float32)


def make(vectorization, kwargs, timeout=None, allowed=0, num_envs=2):
    return make_vec_env("faulty:Faulty-v0", num_envs, vectorization, kwargs, timeout, Restarts(allowed))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def play(envs, steps):
    envs.reset(seed=[0, 1])
    for _ in range(steps):
        envs.step(ACTION)


def pids(envs):
    return [worker._process.pid for worker in envs.workers]


class WritingEnv(gym.Env):
    """Writes into the action that it is given."""

    observation_space = gym.spaces.Discrete(1)

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        action[:] = 0
        return 0, 0.0, False, False, {}


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (gym.spaces.MultiBinary(3), [[1, 0, 1], [0, 1, 1]]),
        (gym.spaces.MultiDiscrete([3, 4]), [[2, 1], [1, 3]]),
        (gym.spaces.Box(-1.0, 1.0, (2,)), [[0.5, -0.5], [1.0, 0.25]]),
        (gym.spaces.Box(-np.inf, np.inf, (2,)), [[0.5, -0.5], [1.0, 0.25]]),
    ],
)
def test_an_action_is_stored_as_it_was_given_though_the_environment_writes_into_it(space, action):
    gym.register("Writing-v0", WritingEnv)
    try:
        episodes = Episodes(make_vec_env("Writing-v0", 2, env_kwargs={"action_space": space}), [0, 1])
    finally:
        del gym.registry["Writing-v0"]
    assert episodes.step(np.array(action, space.dtype)).action.tolist() == action


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("info", ["lengths", "types", "lambda", 3, None])
def test_info_that_cannot_be_merged_nor_sent_ends_no_run(vectorization, info):
    envs = make(vectorization, {"info": info}, num_envs=3)
    envs.reset(seed=[1, 2, 3])
    for _ in range(5):
        *_, given = envs.step(np.zeros((3, 1), np.float32))
        assert given == {}
    envs.close()


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("kill", "is gone: its process was killed by SIGKILL, perhaps for want of memory"),
        ("leave", "is gone: its process ended with exit code 7"),
    ],
)
def test_a_process_that_dies_is_named_with_its_step_and_the_way_on(end, message):
    envs = make("async", {"fault": f"end:{end}", "at": 3})
    envs.reset(seed=[0, 1])
    envs.step(ACTION)
    envs.step(ACTION)
    with pytest.raises(EnvironmentFault, match=rf"^environment 0 \(Faulty-v0\) at its step 3 {message}") as caught:
        envs.step(ACTION)
    assert str(caught.value).endswith("mend it, or let the run go on with a new one: data.max_env_restarts=N")
    own = pids(envs)
    envs.close()
    assert not any(map(is_alive, own))


def test_a_process_that_was_killed_while_it_waited_is_found_at_the_next_reset():
    envs = make("async", {})
    envs.reset(seed=[0, 1])
    os.kill(pids(envs)[1], signal.SIGKILL)
    with pytest.raises(EnvironmentFault, match=r"^environment 1 \(Faulty-v0\) at its step 0 is gone"):
        envs.reset(options={"reset_mask": np.array([False, True])})
    envs.close()


@pytest.mark.parametrize("at", [0, 2])
def test_an_environment_that_hangs_is_found_after_the_timeout_and_closed_with_its_process(at, monkeypatch):
    monkeypatch.setattr("rl_lightning.environments.workers.CLOSE_SECONDS", 0.5)  # for the other one, which hangs too
    envs = make("async", {"fault": "end:hang", "at": at}, timeout=3.0)
    own = pids(envs)
    with pytest.raises(
        EnvironmentFault, match=rf"at its step {at} has not answered for 3 seconds \(data.env_timeout\)"
    ):
        play(envs, steps=3)
    envs.close()
    assert not any(map(is_alive, own))


@pytest.mark.parametrize(
    ("vectorization", "fault"),
    [("sync", "end:raise"), ("sync", "obs:nan"), ("async", "end:raise"), ("async", "end:kill"), ("async", "end:hang")],
)
def test_an_environment_that_broke_is_replaced_and_no_step_crosses_the_restart(vectorization, fault, tmp_path):
    kwargs = {"fault": fault, "at": 4, "times": str(tmp_path), "length": 6}
    envs = make(vectorization, kwargs, timeout=5.0 if vectorization == "async" else None, allowed=1)
    episodes = Episodes(envs, [0, 1])
    dropped = []
    with pytest.warns(UserWarning, match="a new one takes its place, restart 1 of 1"):  # noqa: PT031
        for _ in range(20):
            before = episodes.obs.copy()
            step = episodes.step(ACTION)
            assert np.array_equal(step.next_obs[:, 0], step.obs[:, 0] + 1)
            assert np.array_equal(step.reward, step.next_obs[:, 0])
            if step.dropped is None:
                assert np.array_equal(step.obs, before)
            else:
                dropped.append(step.dropped.tolist())
                assert step.obs[step.dropped].tolist() == [[0, 0]]
                assert before[step.dropped, 0].tolist() == [3]
                assert np.array_equal(step.obs[~step.dropped], before[~step.dropped])
    envs.close()
    assert len(dropped) == envs.restarts.done == 1
    assert sum(dropped[0]) == 1


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_fault_after_the_last_restart_is_raised_and_says_so(vectorization):
    envs = make(vectorization, {"fault": "end:raise", "at": 1}, allowed=3)
    envs.reset(seed=[0, 1])
    with (
        pytest.warns(UserWarning, match="restart 3 of 3"),
        pytest.raises(
            EnvironmentFault, match=r"raised LookupError: joint lost; all 3 restarts \(data\.max_env_restarts\)"
        ),
    ):
        envs.step(ACTION)
    envs.close()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_new_environments_are_seeded_with_seeds_of_their_own(vectorization, tmp_path):
    starts = []
    for run in range(2):
        (folder := tmp_path / str(run)).mkdir()
        kwargs = {"fault": "end:raise", "at": 2, "times": str(folder), "most": 2, "obs": "image"}
        envs = make(vectorization, kwargs, allowed=2)
        with pytest.warns(UserWarning, match="restart"):  # noqa: PT031
            episodes = Episodes(envs, [5, 5])
            starts.append(
                [env.np_random.integers(99) for env in envs.envs] if envs.envs else envs.call("np_random_seed")
            )
            for _ in range(3):
                episodes.step(ACTION)
        seeds = envs.call("np_random_seed")
        envs.close()
        starts.append(seeds)
        assert seeds[0] != seeds[1] != 5
    assert starts[:2] == starts[2:]


def test_what_a_lambda_makes_steps_in_processes_and_what_cannot_be_sent_is_refused(monkeypatch):
    gym.register("Lambda-v0", lambda: FaultyEnv())
    try:
        envs = make_vec_env("Lambda-v0", 2, "async")
        envs.reset(seed=[0, 1])
        assert envs.step(ACTION)[1].tolist() == [1.0, 1.0]
        envs.close()
    finally:
        del gym.registry["Lambda-v0"]
    spawn = multiprocessing.get_context("spawn")
    monkeypatch.setattr(multiprocessing, "get_context", lambda: spawn)
    with pytest.raises(UsageError, match=r"vectorization='async' is not allowed: environment 0 .* cannot be sent"):
        make("async", {"info": threading.Lock()})


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_the_main_process_also_when_they_hang(end):
    theirs, ours = os.pipe()
    if (main := os.fork()) == 0:
        envs = make("async", {"fault": "end:hang", "at": 1})
        envs.reset(seed=[0, 1])
        os.write(ours, " ".join(map(str, pids(envs))).encode())
        envs.step(ACTION)
        os._exit(1)
    workers = [int(pid) for pid in os.read(theirs, 100).split()]
    assert len(workers) == 2
    assert all(map(is_alive, workers))
    os.kill(main, end)
    os.waitpid(main, 0)
    wait_for(lambda: not any(map(is_alive, workers)))


def test_a_signal_to_everybody_is_the_main_processs_to_handle():
    envs = make("async", {})
    envs.reset(seed=[0, 1])
    for pid in pids(envs):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(pid, number)
    assert envs.step(ACTION)[1].tolist() == [1.0, 1.0]
    envs.close()


def test_a_vector_that_nobody_closed_leaves_no_process():
    envs = make("async", {})
    own = pids(envs)
    assert all(isinstance(worker, Apart) for worker in envs.workers)
    del envs
    wait_for(lambda: not any(map(is_alive, own)))
