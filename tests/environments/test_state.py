"""Environments go on in another process from plain data, bit by bit."""

import hashlib
import importlib.util
import os
import random
import subprocess
import sys
import types
from collections import OrderedDict, deque
from functools import partial
from io import BytesIO
from pathlib import Path

import ale_py  # noqa: F401 (registers ALE/)
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from stateful import Mood, Place, PlainEnv, Robot

from rl_lightning import UsageError
from rl_lightning.environments.make import make_env, make_vec_env
from rl_lightning.environments.snapshots.putting import put
from rl_lightning.environments.snapshots.taking import take
from rl_lightning.environments.state import capture, play, restore, same, why_not_restorable

CLASSIC = ["CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1", "Acrobot-v1"]
TOY = ["FrozenLake-v1", "Taxi-v4", "CliffWalking-v1", "CliffWalkingSlippery-v1"]
MUJOCO = ["HalfCheetah-v5", "Hopper-v5", "Ant-v5", "Humanoid-v5", "InvertedPendulum-v5", "Reacher-v5", "Pusher-v5"]
MINIGRID = ["MiniGrid-DoorKey-5x5-v0", "MiniGrid-Dynamic-Obstacles-5x5-v0", "MiniGrid-KeyCorridorS3R1-v0"]
BOX2D = ["LunarLander-v3", "BipedalWalker-v3", "CarRacing-v3"]


def installed(*packages):
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{missing} not installed")


def saved(states):
    """As a checkpoint hands them back."""
    file = BytesIO()
    torch.save(states, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def actions_of(envs, count, seed=0):
    envs.action_space.seed(seed)
    return [envs.action_space.sample() for _ in range(count)]


def equal(one, other):
    return len(one) == len(other) and all(map(same, one, other))


@pytest.mark.parametrize("env_id", [*CLASSIC, *TOY, "Wrapped-v0", "GlobalNumbers-v0", "Plain-v0", "OwnWrapper-v0"])
def test_play_goes_on_exactly(env_id):
    assert why_not_restorable(f"stateful:{env_id}" if env_id not in CLASSIC + TOY else env_id) is None


@installed("mujoco")
@pytest.mark.parametrize("env_id", MUJOCO)
def test_play_in_mujoco_goes_on_exactly(env_id):
    assert why_not_restorable(env_id) is None


@installed("minigrid")
@pytest.mark.parametrize("name", MINIGRID)
def test_play_in_minigrid_goes_on_exactly(name):
    assert why_not_restorable("stateful:Minigrid-v0", {"name": name}) is None


@installed("Box2D")
@pytest.mark.parametrize("env_id", BOX2D)
def test_box2d_is_found_not_to_be_restorable_and_the_attribute_is_named(env_id):
    reason = why_not_restorable(env_id)
    assert reason is not None
    assert reason.startswith(f"{env_id}: its attribute")
    assert "`world` (Box2D.Box2D.b2World)" in reason or env_id == "CarRacing-v3"
    assert reason.endswith("no plain data; give the environment state_dict() and load_state_dict(state)")


@pytest.mark.parametrize("env_id", ["rl_lightning.atari:Atari-v0", "ALE/Pong-v5"])
def test_play_in_atari_goes_on_exactly(env_id):
    assert why_not_restorable(env_id) is None


def test_the_action_that_sticks_in_the_emulator_sticks_on_wherever_play_is_captured():
    kwargs = {"obs_type": "ram", "frameskip": 1, "repeat_action_probability": 0.6}
    make = partial(make_vec_env, "ALE/Breakout-v5", 1, env_kwargs=kwargs)
    envs, never_captured, other = make(), make(), make()
    for each in (envs, never_captured):
        each.reset(seed=[3])
    actions = actions_of(envs, 7 * 8)
    for start in range(0, len(actions), 8):
        restore(other, saved(capture(envs)))
        now = actions[start : start + 8]
        expected = play(never_captured, now)
        assert equal(play(envs, now), expected)  # a look ahead leaves no trace
        assert equal(play(other, now), expected)
    for each in (envs, never_captured, other):
        each.close()


def test_blackjack_goes_on_whose_observations_are_a_tuple():
    one, other = (gym.make("Blackjack-v1") for _ in range(2))
    one.reset(seed=4)
    other.reset(seed=0)
    put(saved(with_tensor(take(one))), other)
    assert one.unwrapped.player == other.unwrapped.player
    steps = [env.step(1)[:4] + env.reset()[:1] for env in (one, other) for _ in range(20) if env.reset() is not None]
    assert steps[:20] == steps[20:]


def with_tensor(taken):
    return taken | {"data": torch.from_numpy(taken["data"].copy())}


@pytest.mark.parametrize(
    ("env_id", "vectorization", "num_envs"),
    [
        ("stateful:Plain-v0", "sync", 3),
        ("stateful:Plain-v0", "async", 3),
        ("stateful:GlobalNumbers-v0", "async", 2),
        ("CartPole-v1", "auto", 6),
        ("toys:DictCounter-v0", "sync", 2),
        ("toys:DictCounter-v0", "async", 2),
    ],
)
def test_a_vector_of_environments_steps_on_without_a_reset_and_also_between_a_step_and_the_reset(
    env_id, vectorization, num_envs
):
    make = partial(make_vec_env, env_id, num_envs, vectorization)
    envs, other = make(), make()
    envs.reset(seed=[*range(num_envs)])
    play(envs, actions_of(envs, 21))
    _, _, terminated, truncated, _ = envs.step(actions_of(envs, 1)[0])
    state = capture(envs)
    assert len(state) == (1 if vectorization == "auto" else num_envs)
    mask = terminated | truncated | (np.arange(num_envs) == 1)
    expected = [envs.reset(options={"reset_mask": mask.copy()})[0], *play(envs, actions_of(envs, 40))]
    restore(other, saved(state))
    found = [other.reset(options={"reset_mask": mask.copy()})[0], *play(other, actions_of(envs, 40))]
    assert equal(expected, found)
    restore(other, saved(state))  # also one that has been in use
    assert same(other.reset(options={"reset_mask": mask.copy()})[0], expected[0])
    for each in (envs, other):
        each.close()


def test_vectorized_cartpole_is_checked_as_it_is_made():
    assert why_not_restorable("CartPole-v1", None, "auto", 8) is None


@pytest.mark.parametrize(
    ("env_id", "env_kwargs", "reason"),
    [
        ("File-v0", None, "its attribute `file` (_io.TextIOWrapper) holds no plain data"),
        ("Local-v0", None, "its attribute `local` (_thread._local) holds no plain data"),
        ("Iterator-v0", None, "its attribute `next` (method-wrapper) holds no plain data"),
        (
            "ClassCounter-v0",
            None,
            "step 1 after it was restored gives another observation, although all its attributes",
        ),
        ("OwnMethods-v0", {"forgets": True}, "state_dict() and load_state_dict(state) were used: they leave something"),
        ("OwnMethods-v0", {"returns": "lock"}, "OwnMethodsEnv.state_dict() holds _thread.lock at"),
        ("OwnMethods-v0", {"returns": "raises"}, "raised OSError when its state was read: no connection"),
    ],
)
def test_an_environment_that_cannot_go_on_is_found_out_with_the_reason_in_one_line(env_id, env_kwargs, reason):
    given = why_not_restorable(f"stateful:{env_id}", env_kwargs)
    assert given is not None
    assert reason in given
    assert "\n" not in given
    assert given.startswith(f"stateful:{env_id}: ")


def test_an_environment_with_methods_of_its_own_need_not_save_its_generator():
    assert why_not_restorable("stateful:OwnMethods-v0") is None


def test_a_broken_environment_is_named_as_such():
    assert "returned reward nan" in why_not_restorable("toys:Broken-v0", {"fault": "nan reward", "at": 3})


def test_the_check_leaves_the_random_numbers_of_the_process_alone_and_no_environment_open(monkeypatch):
    closed = []
    monkeypatch.setattr(CartPoleEnv, "close", lambda env: closed.append(env))
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert why_not_restorable("stateful:GlobalNumbers-v0") is None
    assert why_not_restorable("CartPole-v1") is None
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert len(closed) == 2


def test_constants_of_a_class_are_not_written_to():
    envs, other = (make_vec_env("stateful:Plain-v0", 1) for _ in range(2))
    envs.reset(seed=[1])
    play(envs, actions_of(envs, 5))
    restore(other, saved(capture(envs)))
    assert PlainEnv.START.tolist() == [0.0, 0.0, 0.0]
    plain = other.envs[0].unwrapped
    assert plain.same_vector is plain.vector
    assert plain.part.base is plain.vector
    assert plain.robots[0].friend.friend is plain.robots[0]
    assert plain.place.grid.flags.f_contiguous
    assert type(plain.small) is np.float32
    assert type(plain.bricks[0]).__name__ == "Brick"


def test_states_that_do_not_fit_are_refused_in_one_line():
    pendulum, cartpoles = make_vec_env("Pendulum-v1", 1), make_vec_env("CartPole-v1", 2)
    vectorized = make_vec_env("CartPole-v1", 6, "auto")
    for envs in (pendulum, cartpoles, vectorized):
        envs.reset(seed=[0] * envs.num_envs)
    with pytest.raises(UsageError, match=r"1 states of environments were saved, 2 are needed: give the same num_envs"):
        restore(cartpoles, capture(pendulum))
    with pytest.raises(UsageError, match=r"environment 0 \(CartPole-v1\) is CheckedEnv of .* the saved state is of"):
        restore(cartpoles, capture(pendulum) * 2)
    with pytest.raises(UsageError, match=r"the environments are CartPoleVector of 6, the saved state is of CheckedEnv"):
        restore(vectorized, capture(pendulum))
    smaller = make_vec_env("CartPole-v1", 5, "auto")
    smaller.reset(seed=[0] * 5)
    with pytest.raises(UsageError, match=r"CartPoleVector of 6, the saved state is of CartPoleVector of 5"):
        restore(vectorized, capture(smaller))


def test_a_damaged_state_is_a_usage_error_and_nothing_else():
    envs = make_vec_env("stateful:Plain-v0", 1)
    envs.reset(seed=[0])
    play(envs, actions_of(envs, 5))
    state = capture(envs)
    dice = random.Random(0)
    refused = []
    for _ in range(60):
        bad = saved(state)
        damage(bad[0]["environment"], dice)
        try:
            restore(make_vec_env("stateful:Plain-v0", 1), bad)
        except UsageError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert "\n" not in "".join(refused)
    for broken in ([None], [{}], [{"environment": {"data": 3}}], [state[0] | {"environment": 5}]):
        with pytest.raises(UsageError):
            restore(make_vec_env("stateful:Plain-v0", 1), broken)


def damage(node, dice):
    """Put something odd at one place."""
    odd = [None, -1, 10**20, "object", "__class__", [], ["object", 10**9], ["tuple", "Popen", [["bytes", 0, 5]]]]
    while True:
        key = dice.choice([*node] if isinstance(node, dict) else range(len(node)))
        if not isinstance(node[key], list | dict) or not node[key] or dice.random() < 0.05:
            node[key] = dice.choice(odd)
            return
        node = node[key]


ARRAYS = st.builds(
    lambda dtype, shape, seed: np.random.default_rng(seed).integers(0, 2, shape).astype(dtype),
    st.sampled_from(["?", "u1", "<i2", "<u8", "<f2", "<f4", "<f8", "<c16", "<U3", "<M8[s]", "O", "i4,f8"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 9),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.complex_numbers(),
    st.sampled_from([np.float32(0.1), np.int64(-3), np.bool_(True), Mood.WILD, Place(2, np.ones(2))]),
    ARRAYS,
    ARRAYS.map(np.transpose),
    ARRAYS.map(lambda array: array[::-1] if array.ndim else array),
    st.integers(0, 9).map(lambda seed: torch.randn(3, generator=torch.Generator().manual_seed(seed))),
)
KEYS = st.one_of(st.text(max_size=3), st.integers(), st.tuples(st.booleans(), st.integers()), st.sampled_from(Mood))
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(lambda items: deque(items, maxlen=4)),
        st.dictionaries(KEYS, inner, max_size=3),
        st.dictionaries(KEYS, inner, max_size=3).map(OrderedDict),
        st.lists(inner, max_size=2).map(lambda items: Robot(np.zeros(2), load=[items, items])),
        st.sets(KEYS, max_size=3),
        st.frozensets(KEYS, max_size=3),
    ),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(NESTED, NESTED)
def test_whatever_an_attribute_holds_comes_back_whatever_stands_in_its_place(value, other):
    one, fresh = (types.SimpleNamespace(known=[Mood.CALM, Place(0, np.zeros(1)), Robot(np.zeros(2))]) for _ in range(2))
    one.value = [value, value]
    fresh.value, fresh.more = other, other
    written = saved(with_tensor(take(one)))
    assert put(written, fresh) is fresh
    assert not hasattr(fresh, "more")
    assert alike(fresh.value, [value, value])
    if alike(value, value) and not isinstance(value, (tuple, frozenset, str, int, float, complex, bytes, np.generic)):
        assert fresh.value[0] is fresh.value[1]
    assert take(fresh)["data"].tobytes() == written["data"].numpy().tobytes()


def alike(one, other):
    """Of the same types and bits, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Robot):
        return alike(vars(one), vars(other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple, deque)):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, np.ndarray) and one.dtype == object:
        return one.shape == other.shape and alike(one.ravel().tolist(), other.ravel().tolist())
    if isinstance(one, torch.Tensor):
        return one.equal(other)
    if isinstance(one, (np.ndarray, np.generic)):
        return same(one, other) and one.strides == other.strides
    return one == other or (one != one and other != other)


def test_a_hostile_state_calls_nothing(tmp_path):
    sentinel = tmp_path / "sentinel"
    envs = make_vec_env("stateful:Plain-v0", 1)
    envs.reset(seed=[0])
    for kind in ("tuple", "member"):
        for name in ("Path", "Popen", "system", "eval", "type", "PlainEnv", "FileEnv", "object"):
            state = saved(capture(envs))
            node = next(node for node in state[0]["environment"]["objects"] if node["class"] == "PlainEnv")
            node["attributes"]["t"] = [kind, name, [f"touch {sentinel}"]]
            with pytest.raises(UsageError):
                restore(envs, state)
    for name in ("Popen", "FileEnv", "TextIOWrapper", "Thread"):
        state = saved(capture(envs))
        taken = state[0]["environment"]
        taken["objects"].append({"kind": "object", "class": name, "attributes": {"pid": 1}})
        next(node for node in taken["objects"] if node["class"] == "PlainEnv")["attributes"]["t"] = [
            "object",
            len(taken["objects"]) - 1,
        ]
        with pytest.raises(UsageError, match=name):
            restore(envs, state)
    assert not sentinel.exists()


ELSEWHERE = ["stateful:Plain-v0", "FrozenLake-v1", "rl_lightning.atari:Atari-v0", "Ant-v5"]


def digest(envs):
    steps = play(envs, actions_of(envs, 40, seed=7))
    return hashlib.sha256(repr([[np.asarray(value).tobytes() for value in step.values()] for step in steps]).encode())


def test_play_goes_on_in_another_process(tmp_path):
    expected = []
    for index, env_id in enumerate(ELSEWHERE):
        envs = make_vec_env(env_id, 2)
        envs.reset(seed=[1, 2])
        play(envs, actions_of(envs, 30))
        torch.save(capture(envs), tmp_path / f"{index}.pt")
        expected.append(digest(envs).hexdigest())
        envs.close()
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    run = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == expected


def main(folder):
    for index, env_id in enumerate(ELSEWHERE):
        envs = make_vec_env(env_id, 2)
        restore(envs, torch.load(folder / f"{index}.pt", weights_only=True))
        print(digest(envs).hexdigest())
        envs.close()


def test_the_models_numbers_are_part_of_mujocos_state():
    one, other = (make_env("HalfCheetah-v5") for _ in range(2))
    for env in (one, other):
        env.reset(seed=0)
    one.unwrapped.model.body_mass[1] *= 1.5
    one.unwrapped.model.opt.gravity[2] = -3.0
    one.unwrapped.model.opt.timestep *= 0.5
    other.restore([one.capture()])
    assert other.unwrapped.model.opt.timestep == one.unwrapped.model.opt.timestep
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 6)).astype(np.float32):
        assert same(one.step(action)[0], other.step(action)[0])


def test_what_rewards_read_of_the_last_step_of_mujoco_is_the_same():
    one, other = (make_env("Humanoid-v5") for _ in range(2))
    one.reset(seed=0)
    for action in np.random.default_rng(0).uniform(-1, 1, (10, 17)).astype(np.float32):
        one.step(action)
    other.reset(seed=1)
    other.restore([one.capture()])
    for name in ("xpos", "cfrc_ext", "cinert", "cvel", "qfrc_actuator", "qacc", "subtree_com", "xmat"):
        assert same(getattr(one.unwrapped.data, name), getattr(other.unwrapped.data, name)), name
    assert one.unwrapped.data.time == other.unwrapped.data.time > 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
