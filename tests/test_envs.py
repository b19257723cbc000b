import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import CounterEnv

from rl_lightning import SAC, EnvironmentFault, UsageError, make_env, make_vec_env
from rl_lightning.evaluation import to_tensor


def given_action(env, action):
    env.reset(seed=0)
    env.step(np.array(action, np.float32))
    return env.unwrapped.given


@pytest.mark.parametrize(
    ("action", "expected"),
    [([-1, -1], [-1, 0]), ([1, 1], [3, 10]), ([0, 0], [1, 5]), ([-1, 1], [-1, 10]), ([0.5, -0.5], [2, 2.5])],
)
def test_actions_are_rescaled_in_each_dimension_to_asymmetric_bounds(action, expected):
    env = make_env("toys:BoxAction-v0", {"low": [-1, 0], "high": [3, 10]})
    assert env.action_space == Box(-1.0, 1.0, (2,), np.float32)
    np.testing.assert_allclose(given_action(env, action), expected, rtol=1e-6, atol=1e-6)


def test_actions_between_minus_one_and_one_are_passed_on_untouched():
    env = make_env("toys:BoxAction-v0", {"low": [-1, -1], "high": [1, 1]})
    assert np.array_equal(given_action(env, [0.1, -0.7]), np.array([0.1, -0.7], np.float32))


@given(low=st.floats(-100, 100, width=32), width=st.floats(0.125, 100, width=32))
@settings(max_examples=60, deadline=None)
def test_a_rescaled_action_is_never_out_of_the_environments_bounds(low, width):
    env = make_env("toys:BoxAction-v0", {"low": [low], "high": [low + width]})
    for end in (-1.0, 1.0):
        assert env.unwrapped.action_space.contains(given_action(env, [end]).astype(np.float32))


@pytest.mark.parametrize(
    ("low", "high", "dtype"), [([-1, 2], [1, 2], "float32"), ([0, 0], [10, 3], "int32"), ([-3], [3], "int64")]
)
def test_an_action_space_that_cannot_be_rescaled_is_refused_before_it_is_used(low, high, dtype):
    # an empty dimension gives NaN, and the gradient of an integer rescaling is 0
    def prepare():
        env = make_env("toys:BoxAction-v0", {"low": low, "high": high, "dtype": dtype})
        SAC(env.observation_space, env.action_space, compile=False)

    with pytest.raises(UsageError, match="action space"):
        prepare()


def test_unbounded_actions_are_left_for_the_learner_to_refuse():
    env = make_env("toys:BoxAction-v0", {"low": [-np.inf, 0], "high": [np.inf, 1]})
    assert env.action_space == env.unwrapped.action_space
    with pytest.raises(UsageError, match="finite bounds"):
        SAC(env.observation_space, env.action_space, compile=False)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_vector_never_resets_by_itself_and_the_caller_resets_just_the_finished(vectorization):
    envs = make_vec_env("toys:Counter-v0", 3, vectorization)
    try:
        assert isinstance(envs, {"sync": SyncVectorEnv, "async": AsyncVectorEnv}[vectorization])
        assert envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED
        obs, _ = envs.reset(seed=[1, 2, 3])
        assert obs[:, 0].tolist() == [CounterEnv.first_episode(seed) for seed in (1, 2, 3)]
        for _ in range(30):
            last, _, terminated, truncated, _ = envs.step(np.zeros((3, 2), np.float32))
            assert np.array_equal(last, obs + np.array([0, 1]))
            obs, done = last.copy(), terminated | truncated
            assert np.array_equal(done, last[:, 1] == 2 + last[:, 0] % 5)
            if done.any():
                obs, _ = envs.reset(options={"reset_mask": done})
                assert np.array_equal(obs, np.where(done[:, None], last * [1, 0] + [1, 0], last))
    finally:
        envs.close()


def test_observations_of_an_environment_that_reuses_its_array_are_distinct():
    envs = make_vec_env("toys:Counter-v0", 2, "sync", {"reuse_array": True})
    first, _ = envs.reset(seed=[1, 2])
    kept = to_tensor(first, envs.single_observation_space)
    second = envs.step(np.zeros((2, 2), np.float32))[0]
    third = envs.step(np.zeros((2, 2), np.float32))[0]
    assert [first[0, 1], second[0, 1], third[0, 1]] == [0, 1, 2]
    assert torch.equal(kept, torch.tensor(first, dtype=torch.float32))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan obs", r"observation with NaN or infinity: \[0.0, nan\]"),
        ("inf obs", r"observation with NaN or infinity: \[-inf, 0.0\]"),
        ("obs shape", r"observation of shape \(3,\); its space says \(2,\)"),
        ("nan reward", "reward nan"),
        ("inf reward", "reward inf"),
        ("no reward", "reward (None|nan)"),
        ("reward shape", r"reward of shape \(1,\)"),
        ("raise", "raised RuntimeError: joint exploded"),
    ],
)
@pytest.mark.parametrize("at", [1, 4])
def test_a_broken_step_is_reported_with_the_place(fault, message, at):
    env = make_env("toys:Broken-v0", {"fault": fault, "at": at}, index=5)
    env.reset(seed=0)
    for step in range(1, at):
        if step == 2:
            env.reset()
        env.step(np.zeros(1, np.float32))
    with pytest.raises(
        EnvironmentFault, match=rf"^environment 5 \(.*Broken-v0\) at its step {at} .*{message}"
    ) as caught:
        env.step(np.zeros(1, np.float32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "message"), [("nan in reset", "NaN"), ("raise in reset", "raised RuntimeError in reset: no socket")]
)
def test_a_broken_reset_is_reported_with_the_place(fault, message):
    env = make_env("toys:Broken-v0", {"fault": fault}, index=2)
    with pytest.raises(EnvironmentFault, match=f"environment 2 .* at its step 0 .*{message}"):
        env.reset(seed=0)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_the_one_environment_of_a_vector_that_broke_is_named(vectorization):
    envs = make_vec_env("toys:Broken-v0", 2, vectorization, {"fault": "raise", "at": 3})
    try:
        envs.reset(seed=[0, 1])
        envs.step(np.zeros((2, 1), np.float32))
        envs.step(np.zeros((2, 1), np.float32))
        with pytest.raises(EnvironmentFault, match=r"environment [01] .*Broken-v0.* at its step 3 raised"):
            envs.step(np.zeros((2, 1), np.float32))
    finally:
        envs.close()


def test_arguments_that_an_environment_refuses_are_named():
    with pytest.raises(UsageError, match=r"env_kwargs={'colour': 'red'} is refused by toys:Counter-v0: .*colour"):
        make_env("toys:Counter-v0", {"colour": "red"})


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("Pendulun-v1", "not a registered Gymnasium environment: did you mean Pendulum-v1"),
        ("qqqqqqqq", "not a registered Gymnasium environment: list them"),
        ("no_such_module:Thing-v0", "needs a package that is not installed: .*no_such_module"),
    ],
)
def test_an_environment_that_does_not_exist_is_refused_with_a_hint(env_id, message):
    with pytest.raises(UsageError, match=f"env_id='{env_id}' .*{message}") as caught:
        make_env(env_id)
    assert "\n" not in str(caught.value)
