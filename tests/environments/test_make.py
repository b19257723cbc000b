import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import CounterEnv

from rl_lightning import (
    DQN,
    PPO,
    SAC,
    EnvironmentFault,
    Policy,
    ReplayDataModule,
    UsageError,
    make_env,
    make_vec_env,
)
from rl_lightning.environments.cartpole import CartPoleVector
from rl_lightning.environments.vector import WatchedVector
from rl_lightning.environments.workers import Apart, Here
from rl_lightning.spaces import is_bounded, to_tensor
from rl_lightning.types import map_obs


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


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_bounds_whose_distance_is_infinite_are_none(dtype):
    most = np.finfo(dtype).max.item()
    env = make_env("toys:BoxAction-v0", {"low": [-most, 0], "high": [most, 1], "dtype": dtype})
    assert given_action(env, [0.5, 0.25]).tolist() == [0.5, 0.25], "as it was given, not the highest number"
    with pytest.raises(UsageError, match="finite bounds"):
        SAC(env.observation_space, env.action_space, compile=False)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64"])
def test_bounds_of_whole_numbers_may_be_as_far_apart_as_their_dtype_has_them(dtype):
    ends = np.iinfo(dtype)
    assert is_bounded(Box(ends.min, ends.max, (2,), dtype))


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_vector_never_resets_by_itself_and_the_caller_resets_just_the_finished(vectorization):
    envs = make_vec_env("toys:Counter-v0", 3, vectorization)
    try:
        assert {type(worker) for worker in envs.workers} == {{"sync": Here, "async": Apart}[vectorization]}
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


class OddlyNamed(gym.Env):
    """Its own arguments are called as those of gymnasium.make; asserts without a word that they are right."""

    observation_space, action_space = Box(-1.0, 1.0, (1,), np.float32), Discrete(2)

    def __init__(self, id: str = "right", fails: bool = False):
        self.own_id = id
        if id == "wrong" or fails:
            raise AssertionError  # as `assert` alone does where nothing adds words to it


gym.register("OddlyNamed-v0", OddlyNamed)


def test_an_environment_may_have_an_argument_called_id():
    env = make_env("OddlyNamed-v0", {"id": "mine", "max_episode_steps": 7})
    assert (env.unwrapped.own_id, env.spec.max_episode_steps) == ("mine", 7)
    assert make_env("OddlyNamed-v0").unwrapped.own_id == "right"
    with pytest.raises(UsageError, match=r"toys:Counter-v0: TypeError: .*'id'"):
        make_env("toys:Counter-v0", {"id": 3})


def test_a_reason_without_words_is_the_kind_of_the_error():
    with pytest.raises(UsageError, match=r"^env_kwargs=\{'id': 'wrong'\} is refused by OddlyNamed-v0: AssertionError$"):
        make_env("OddlyNamed-v0", {"id": "wrong"})
    gym.register("FailsByItself-v0", OddlyNamed, kwargs={"fails": True})
    try:
        with pytest.raises(
            UsageError, match=r"^env_id='FailsByItself-v0' cannot be made: it raised AssertionError; mend"
        ):
            make_env("FailsByItself-v0")
    finally:
        del gym.registry["FailsByItself-v0"]


@pytest.mark.parametrize(
    ("env_id", "fix"),
    [
        ("ALE/Breakout-v5", "give env_id=ale_py:ALE/Breakout-v5, or env_id=rl_lightning.atari:Atari-v0 with "),
        ("MiniGrid-Empty-5x5-v0", "importing minigrid registers it; give env_id=minigrid:MiniGrid-Empty-5x5-v0"),
        ("PointMaze_UMaze-v3", "give env_id=gymnasium_robotics:PointMaze_UMaze-v3"),
        ("highway-fast-v0", "give env_id=highway_env:highway-fast-v0"),
    ],
)
def test_an_id_that_a_package_registers_when_it_is_imported_is_answered_with_what_works(env_id, fix, monkeypatch):
    begins = env_id[:4]
    for known in [known for known in gym.registry if known.startswith(begins)]:
        monkeypatch.delitem(gym.registry, known)
    with pytest.raises(UsageError) as caught:
        make_env(env_id)
    assert fix in str(caught.value)
    assert "env_kwargs.game=Breakout" in str(caught.value) or "ALE" not in env_id


class Tuples(gym.Env):
    """Shows Tuples, nested in a Dict and twelve long; or not what its space says."""

    action_space = Discrete(2)

    def __init__(self, shows=None):
        self.observation_space = gym.spaces.Dict(
            {
                "z": gym.spaces.Tuple([Discrete(3, start=place) for place in range(12)]),
                "a": Box(-1, 1, (1,), np.float32),
            }
        )
        self.shows = shows

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        numbers = tuple(range(12)) if self.shows is None else self.shows
        return {"z": numbers, "a": np.zeros(1, np.float32)}, {}

    def step(self, action):
        return self.reset()[0], 0.0, False, False, {}


gym.register("Tuples-v0", Tuples)


def test_tuples_of_observations_are_dicts_to_learners_in_the_same_order():
    env = make_env("Tuples-v0")
    assert [*env.observation_space["z"].spaces] == [str(place) for place in range(12)]
    assert [space.start for space in env.observation_space["z"].spaces.values()] == [*range(12)]
    assert env.reset()[0]["z"] == {str(place): place for place in range(12)}
    envs = make_vec_env("Tuples-v0", 2)
    assert envs.reset()[0]["z"]["10"].tolist() == [10, 10]
    data = ReplayDataModule("Tuples-v0", total_env_steps=2_000)
    learner = DQN(data.observation_space, data.action_space, compile=False)
    assert learner.act(map_obs(torch.as_tensor, envs.reset()[0])).shape == (2,)
    policy = Policy({}, data.observation_space, data.action_space, lambda obs, _: obs["z"]["11"])
    assert policy(env.unwrapped.reset()[0]) == 11, "a policy takes the environment's own Tuples"


@pytest.mark.parametrize("shows", [(0, 1), 5])
def test_what_is_no_tuple_of_the_spaces_length_is_a_fault(shows):
    with pytest.raises(
        EnvironmentFault, match=r"Tuples-v0\) at its step 0 returned under 'z' an observation that is no dict"
    ):
        make_env("Tuples-v0", {"shows": shows}).reset()


@pytest.mark.parametrize("kind", [gym.spaces.Tuple, lambda parts: gym.spaces.Dict(dict(zip("ab", parts, strict=True)))])
def test_actions_in_parts_are_refused_with_what_to_do(kind):
    space = kind([Discrete(2), Box(-1.0, 1.0, (1,), np.float32)])
    for learner, whole in ((SAC, "a bounded Box"), (DQN, "a Discrete"), (PPO, "a Box or MultiDiscrete")):
        with pytest.raises(
            UsageError, match=rf"make {whole} of them all in a wrapper .*docs/environments.md"
        ) as caught:
            learner(Box(-1.0, 1.0, (1,), np.float32), space, compile=False)
        assert "\n" not in str(caught.value)


def test_a_refusal_shows_the_environments_own_actions_not_those_of_learners():
    for env_id, learner, own in (
        ("Pendulum-v1", DQN, r"Box\(-2.0, 2.0, \(1,\), float32\)"),
        ("toys:DiscreteCounter-v0", SAC, r"Discrete\(3, start=2\)"),
    ):
        env = make_env(env_id)
        with pytest.raises(UsageError, match=f"^action space {own} is not supported by {learner.__name__}: "):
            learner(env.observation_space, env.action_space, compile=False)


def test_mujoco_warns_through_python_and_leaves_no_log(tmp_path, monkeypatch, capfd):
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="MuJoCo: compiler attribute 'settotalmass' is deprecated"):
        make_env("HalfCheetah-v5").close()
    assert "settotalmass" not in "".join(capfd.readouterr())
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize("package", ["ale_py", "cv2"])
def test_a_missing_package_is_named_by_the_extra_that_installs_it(package, monkeypatch):
    for module in ("rl_lightning.atari", "rl_lightning.environments.atari"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError) as caught:
        make_env("rl_lightning.atari:Atari-v0")
    assert str(caught.value) == (
        "env_id='rl_lightning.atari:Atari-v0' needs a package that is not installed: "
        'pip install "rl_lightning[atari]"'
    )


def test_an_action_that_an_unbounded_policy_gave_is_clipped_to_minus_one_and_one():
    env = make_env("toys:BoxAction-v0", {"low": [-1, -1, -1], "high": [1, 1, 1]})
    np.testing.assert_array_equal(given_action(env, [-7.0, 1.0001, 0.25]), np.array([-1.0, 1.0, 0.25], np.float32))
    asymmetric = make_env("toys:BoxAction-v0", {"low": [-1, 0], "high": [3, 10]})
    np.testing.assert_array_equal(given_action(asymmetric, [5.0, -7.0]), np.array([3.0, 0.0], np.float32))


def test_clipping_leaves_the_policys_action_as_it_is():
    for low, high in ((-1, 1), (0, 3)):
        env, action = make_env("toys:BoxAction-v0", {"low": [low], "high": [high]}), np.array([5.0], np.float32)
        env.reset(seed=0)
        env.step(action)
        assert env.unwrapped.given.tolist() == [high]
        assert action.tolist() == [5.0]


def test_discrete_actions_are_counted_from_zero_whatever_the_environment_counts_from():
    env = make_env("toys:DiscreteCounter-v0", {"length": 10})
    assert env.action_space == Discrete(3)
    env.reset(seed=0)
    for action in (0, 2, 1, np.int64(2)):
        env.step(action)
    assert [int(step.action) for step in env.unwrapped.log] == [2, 4, 3, 4]


def test_discrete_actions_of_a_vector_are_shifted_too():
    envs = make_vec_env("toys:DiscreteCounter-v0", 3, env_kwargs={"length": 10})
    assert envs.single_action_space == Discrete(3)
    envs.reset(seed=[0, 1, 2])
    envs.step(np.array([0, 1, 2]))
    assert [int(env.log[0].action) for env in CounterEnv.stepped()] == [2, 3, 4]


def test_multi_discrete_actions_are_counted_from_zero_whatever_the_environment_counts_from():
    env = make_env("toys:Choices-v0", {"choices": [2, 3], "start": [1, -1]})
    assert env.action_space == MultiDiscrete([2, 3])
    env.reset(seed=0)
    for action, expected in (([0, 0], [1, -1]), ([1, 2], [2, 1])):
        env.step(np.array(action))
        assert env.unwrapped.given.tolist() == expected


@pytest.mark.parametrize(
    ("env_id", "num_envs", "vectorization", "kind"),
    [
        ("CartPole-v1", 4, "auto", WatchedVector),
        ("CartPole-v1", 5, "auto", CartPoleVector),
        ("CartPole-v1", 8, "sync", WatchedVector),
        ("toys:Counter-v0", 8, "auto", WatchedVector),
    ],
)
def test_auto_takes_gymnasiums_own_vector_where_there_is_one_and_enough_environments(
    env_id, num_envs, vectorization, kind
):
    envs, single = make_vec_env(env_id, num_envs, vectorization), make_env(env_id)
    assert type(envs) is kind
    assert envs.num_envs == num_envs
    assert envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    assert envs.single_observation_space == single.observation_space
    assert envs.single_action_space == single.action_space


def put(single, envs, index):
    """Begin an episode of a single CartPole in the state of one of a vector's."""
    single.reset()
    single.unwrapped.state = envs.state[:, index].copy()


def test_a_vector_of_cartpoles_steps_as_single_ones_do_and_masked_resets_touch_no_others():
    envs, rng, episodes = make_vec_env("CartPole-v1", 8, "auto"), np.random.default_rng(0), 0
    obs, _ = envs.reset(seed=list(range(8)))
    assert len(np.unique(obs, axis=0)) == 8
    assert (np.abs(obs) <= 0.05).all()
    singles = [gym.make("CartPole-v1") for _ in range(8)]
    for index, single in enumerate(singles):
        put(single, envs, index)
    for _ in range(150):
        action = rng.integers(0, 2, 8)
        obs, reward, terminated, truncated, _ = envs.step(action)
        expected = [single.step(a) for single, a in zip(singles, action, strict=True)]
        np.testing.assert_allclose(obs, np.stack([step[0] for step in expected]), rtol=1e-5, atol=1e-6)
        for position, actual in ((1, reward), (2, terminated), (3, truncated)):
            assert actual.tolist() == [step[position] for step in expected]
        done = terminated | truncated
        if done.any():
            last, kept = obs.copy(), envs.state[:, ~done].copy()
            obs, _ = envs.reset(options={"reset_mask": done})
            assert np.array_equal(obs[~done], last[~done])
            assert np.array_equal(envs.state[:, ~done], kept)
            assert (np.abs(obs[done]) <= 0.05).all()
            assert not np.isin(obs[done], last[done]).any()
            for index in done.nonzero()[0]:
                put(singles[index], envs, index)
                episodes += 1
    assert episodes > 20


def test_observations_of_a_vector_of_cartpoles_are_distinct_arrays():
    envs = make_vec_env("CartPole-v1", 5, "auto")
    first, _ = envs.reset(seed=[0] * 5)
    kept = first.copy()
    second, *_ = envs.step(np.ones(5, np.int64))
    after = second.copy()
    envs.step(np.ones(5, np.int64))
    envs.reset(options={"reset_mask": np.array([True] * 5)})
    assert np.array_equal(first, kept)
    assert np.array_equal(second, after)


def balancing(obs):
    """Keeps the pole up, from any start."""
    x, x_dot, theta, theta_dot = obs.T
    return (theta + 0.5 * theta_dot + 0.03 * x + 0.05 * x_dot > 0).astype(np.int64)


def test_an_episode_of_a_vector_of_cartpoles_is_cut_off_after_500_steps_of_its_own():
    envs = make_vec_env("CartPole-v1", 6, "auto")
    obs, _ = envs.reset(seed=[3] * 6)
    started, ends = np.zeros(6, int), []
    for step in range(1, 621):
        action = balancing(obs)
        if step < 40:
            action[:2] = 1  # these fall at once
        obs, _, terminated, truncated, _ = envs.step(action)
        assert not (terminated & truncated).any()
        assert np.array_equal(truncated, step - started == 500)
        done = terminated | truncated
        ends += [(int(index), bool(truncated[index])) for index in done.nonzero()[0]]
        if done.any():
            obs, _ = envs.reset(options={"reset_mask": done})
            started[done] = step
    assert sorted(index for index, cut_off in ends if cut_off) == [0, 1, 2, 3, 4, 5]
    assert {index for index, cut_off in ends if not cut_off} == {0, 1}


def test_a_seed_decides_the_starts_of_a_vector_of_cartpoles_and_of_its_later_episodes():
    runs = []
    for seed in (5, 5, 6):
        envs = make_vec_env("CartPole-v1", 5, "auto")
        first, _ = envs.reset(seed=[seed, 1, 2, 3, 4])
        later, _ = envs.reset(options={"reset_mask": np.array([True, False, True, False, False])})
        runs.append(np.stack([first, later]))
    assert np.array_equal(runs[0], runs[1])
    assert not np.isin(runs[0], runs[2]).any()
    assert np.array_equal((runs[0][0] != runs[0][1]).all(-1), [True, False, True, False, False])


@pytest.mark.parametrize("vectorization", ["sync", "auto"])
def test_a_finished_cartpole_shows_its_last_observation_until_its_caller_resets_it(vectorization):
    envs = make_vec_env("CartPole-v1", 5, vectorization)
    envs.reset(seed=[0] * 5)
    done = np.zeros(5, bool)
    while not done.any():
        obs, _, terminated, truncated, _ = envs.step(np.ones(5, np.int64))
        done = terminated | truncated
    assert (np.abs(obs[done]) > 0.2).any(-1).all(), "a pole that fell"
    after, _ = envs.reset(options={"reset_mask": done})
    assert (np.abs(after[done]) <= 0.05).all()
    stepped, reward, *_ = envs.step(np.ones(5, np.int64))
    assert (reward == 1.0).all()
    assert (stepped[done, 1] > after[done, 1] + 0.1).all(), "a step from the reset state, pushed to the right"


def test_an_action_is_clipped_also_in_a_dimension_that_is_bounded_beside_one_that_is_not():
    env = make_env("toys:BoxAction-v0", {"low": [-np.inf, 0], "high": [np.inf, 1]})
    assert given_action(env, [5.0, 7.0]).tolist() == [5.0, 1.0]
