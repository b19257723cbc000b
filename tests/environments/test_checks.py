"""Whatever an environment returns against its contract is one line with the place; what can be meant passes."""

import re

import faulty
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from rl_lightning import EnvironmentFault, UsageError, make_env, make_vec_env
from rl_lightning.environments.checks import flag_of, number_of, obs_check

ACTION = np.zeros(1, np.float32)
WRONG = [
    *(("real", f"obs:{what}") for what in ("None", "string", "list of strings", "object", "complex", "array", "empty")),
    *(("real", f"obs:{what}") for what in ("ragged", "no array", "nan", "no key")),
    *(("image", f"obs:{what}") for what in ("float image", "signed image", "list beyond 255", "None", "array")),
    *(("discrete", f"obs:{what}") for what in ("too large", "too small", "half", "array", "None", "string")),
    *(("choices", f"obs:{what}") for what in ("high choice", "low choice", "half", "None")),
    *(("bits", f"obs:{what}") for what in ("no bits", "array", "None")),
    *(("dict", f"obs:{what}") for what in ("no key", "one key more", "flat", "wrong inside", "None", "array")),
    ("tuple", "obs:too large"),
    *(("real", f"reward:{what}") for what in faulty.REWARDS),
    *(("real", f"terminated:{what}") for what in faulty.FLAGS),
    *(("real", f"truncated:{what}") for what in faulty.FLAGS),
    *(("real", f"form:{what}") for what in faulty.FORMS),
    ("real", "end:raise"),
    ("real", "end:exit"),
]


@pytest.mark.parametrize(("obs", "fault"), WRONG, ids=[f"{obs}-{fault}" for obs, fault in WRONG])
def test_a_step_against_the_contract_is_one_line_with_environment_and_step(obs, fault):
    env = make_env("faulty:Faulty-v0", {"fault": fault, "at": 2, "obs": obs}, index=4)
    env.reset(seed=0)
    env.step(ACTION)
    with pytest.raises(
        EnvironmentFault, match=r"^environment 4 \(Faulty-v0\) at its step 2 (returned|raised) "
    ) as caught:
        env.step(ACTION)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "fault", ["obs:nan", "obs:None", "form:obs", "form:list", "form:6 values", "end:raise", "end:exit"]
)
def test_a_reset_against_the_contract_is_one_line_with_the_environment(fault):
    env = make_env("faulty:Faulty-v0", {"fault": fault, "at": 0}, index=4)
    with pytest.raises(EnvironmentFault, match=r"^environment 4 \(Faulty-v0\) at its step 0 "):
        env.reset(seed=0)


def test_messages_say_what_came_and_what_is_needed():
    for obs, fault, message in [
        ("image", "obs:float image", "returned an observation of float32; its space says uint8"),
        ("discrete", "obs:too large", "returned the observation 6; its space has 2 to 5"),
        ("dict", "obs:no key", "returned an observation with the keys inner; its space has the keys inner, number"),
        ("dict", "obs:wrong inside", "returned under 'number' the observation 3; its space has 0 to 2"),
        ("real", "reward:string", "returned a reward '1.0'; a single number is needed"),
        ("real", "terminated:None", "returned terminated=None; a bool is needed"),
        ("real", "form:4 values", "returned 4 values from step; the 5 values obs, reward, terminated, truncated, info"),
    ]:
        env = make_env("faulty:Faulty-v0", {"fault": fault, "at": 1, "obs": obs})
        env.reset(seed=0)
        with pytest.raises(EnvironmentFault, match=re.escape(message)):
            env.step(ACTION)


@pytest.mark.parametrize(
    ("space", "obs"),
    [
        (Box(-1, 1, (2,), np.float32), np.zeros(2)),
        (Box(-1, 1, (2,), np.float32), np.full(2, 7.0, np.float16)),
        (Box(-1, 1, (2,), np.float32), np.zeros(2, np.int64)),
        (Box(-1, 1, (2,), np.float32), [0.0, 1]),
        (Box(-1, 1, (2,), np.float32), torch.zeros(2)),
        (Box(0, 255, (2,), np.uint8), [0, 255]),
        (Box(0, 9, (), np.int32), 4),
        (Box(0, 9, (2,), np.int32), np.array([0, 3])),
        (Discrete(3), np.int32(2)),
        (Discrete(3), np.array(2)),
        (Discrete(2), True),
        (Discrete(3, start=-1), -1),
        (MultiDiscrete([2, 3]), [1, 2]),
    ],
)
def test_an_observation_that_can_be_meant_passes_and_arrives_as_it_is(space, obs):
    assert obs_check(space)(obs) is None


def test_rewards_and_flags_are_taken_for_what_they_mean():
    for reward in (1, True, np.float32(1), np.int64(1), np.bool_(True), np.array(1.0), torch.tensor(1.0)):
        assert number_of(reward) == 1.0
    for flag in (1, True, np.bool_(True), np.array(True), torch.tensor(True)):
        assert flag_of(flag) is True
    assert flag_of(0) is False


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_list_of_whole_numbers_reaches_a_batch_of_images(vectorization):
    gym.register("Lists-v0", lambda: ListEnv())
    try:
        envs = make_vec_env("Lists-v0", 2, vectorization)
        obs, _ = envs.reset(seed=[0, 1])
        envs.close()
    finally:
        del gym.registry["Lists-v0"]
    assert obs.dtype == np.uint8
    assert obs.tolist() == [[1, 200], [1, 200]]


class ListEnv(faulty.FaultyEnv):
    def __init__(self):
        super().__init__()
        self.observation_space = Box(0, 255, (2,), np.uint8)

    def _obs(self):
        return [1, 200]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("make:key", "KeyError: 'colour'"),
        ("make:os", "OSError: no display"),
        ("make:exit", "SystemExit: 3"),
        ("space:observation_space", "observation_space of faulty:Faulty-v0=None is not allowed"),
        ("space:action_space", "action_space of faulty:Faulty-v0=None is not allowed"),
        ("lack:observation_space", "observation_space of faulty:Faulty-v0=None is not allowed"),
        ("lack:action_space", "action_space of faulty:Faulty-v0=None is not allowed"),
    ],
)
def test_an_environment_that_cannot_be_made_is_refused_in_one_line(fault, message):
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        make_env("faulty:Faulty-v0", {"fault": fault})
    assert "\n" not in str(caught.value)


def test_a_module_with_a_syntax_error_is_named_with_its_line(tmp_path, monkeypatch):
    (tmp_path / "unfinished.py").write_text("import gymnasium\ndef make(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"cannot be made: it raised SyntaxError: .*unfinished\.py, line 2"):
        make_env("unfinished:Thing-v0")


def test_an_interrupt_by_the_user_passes():
    env = make_env("faulty:Faulty-v0")
    env.reset(seed=0)
    env.unwrapped.step = lambda action: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        env.step(ACTION)


def test_what_an_environment_raises_when_it_is_closed_is_a_warning():
    env = make_env("faulty:Faulty-v0", {"fault": "close:raise"}, index=1)
    with pytest.warns(UserWarning, match=r"environment 1 \(Faulty-v0\) raised RuntimeError in close: already closed"):
        env.close()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_environments_of_one_vector_with_different_spaces_are_refused(vectorization, tmp_path):
    gym.register("Growing-v0", GrowingEnv)
    try:
        with pytest.raises(UsageError, match=r"environment [01] has other spaces than the first"):
            make_vec_env("Growing-v0", 2, vectorization, {"folder": str(tmp_path)})
    finally:
        del gym.registry["Growing-v0"]


class GrowingEnv(faulty.FaultyEnv):
    """Each one that is made has a larger observation than the one before."""

    def __init__(self, folder):
        super().__init__(times=folder, most=9)
        self.kind = "count"
        self._is_due()
        size = len(list(faulty.Path(folder).iterdir()))
        self.observation_space = Box(-1.0, 1.0, (size,), np.float32)
