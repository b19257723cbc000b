import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

from rl_lightning import DQN, ReplayDataModule, UsageError, make_env, make_vec_env
from rl_lightning.environments.state import capture, restore

ale_py = pytest.importorskip("ale_py")
pytest.importorskip("cv2")

ATARI = "rl_lightning.atari:Atari-v0"


def play(env, steps, seed=0):
    """Observations of an episode's reset and steps, with actions drawn by `seed`."""
    obs, _ = env.reset(seed=seed)
    seen, rng = [obs], np.random.default_rng(seed)
    for _ in range(steps):
        seen.append(env.step(rng.integers(env.action_space.n))[0])
    return np.stack(seen)


def test_observations_are_the_latest_four_images_as_bytes():
    env = make_env(ATARI, {"game": "Pong"})
    assert env.observation_space == Box(0, 255, (4, 84, 84), np.uint8)
    obs, _ = env.reset(seed=0)
    assert (obs.shape, obs.dtype) == ((4, 84, 84), np.uint8)
    assert obs.min() < 60, "not scaled"
    assert obs.max() > 200


def test_a_reset_repeats_its_image_and_each_step_shifts_the_stack_by_one():
    env = make_env(ATARI, {"game": "Pong", "frame_stack": 3})
    for seed in (0, None):
        obs, _ = env.reset(seed=seed)
        assert (obs == obs[-1]).all()
        for _ in range(20):
            before, obs = obs, env.step(2)[0]
            assert np.array_equal(obs[:-1], before[1:])
    assert not np.array_equal(obs[-1], obs[-2]), "something moves"


@pytest.mark.parametrize(("noop_max", "waited"), [(0, {0}), (5, {1, 2, 3, 4, 5})])
def test_an_episode_begins_after_up_to_noop_max_frames(noop_max, waited):
    env = make_env(ATARI, {"game": "Pong", "noop_max": noop_max})
    env.reset(seed=0)
    assert {env.reset()[1]["episode_frame_number"] for _ in range(40)} == waited


@pytest.mark.parametrize("frame_skip", [1, 4])
def test_a_step_is_so_many_frames(frame_skip):
    env = make_env(ATARI, {"game": "Pong", "frame_skip": frame_skip, "noop_max": 0})
    env.reset(seed=0)
    for _ in range(3):
        info = env.step(0)[4]
    assert info["episode_frame_number"] == 3 * frame_skip


def test_a_seed_decides_an_episode():
    env = make_env(ATARI, {"game": "Pong"})
    one, again, other = (play(env, 30, seed) for seed in (3, 3, 4))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_actions_stick_unless_the_game_is_to_be_deterministic():
    def images(probability, seed):
        env = make_env(ATARI, {"game": "Pong", "noop_max": 0, "repeat_action_probability": probability})
        env.reset(seed=seed)
        return np.stack([env.step(2 + step // 5 % 2)[0][-1] for step in range(30)])

    assert np.array_equal(images(0.0, 0), images(0.0, 1))
    assert not np.array_equal(images(0.25, 0), images(0.25, 1))


def test_actions_are_those_of_the_game_or_all_of_the_joystick():
    assert make_env(ATARI, {"game": "Pong"}).action_space.n == 6
    assert make_env(ATARI, {"game": "Pong", "full_action_space": True}).action_space.n == 18


def test_an_episode_is_a_whole_game_or_a_life():
    lives = []
    for terminal_on_life_loss in (False, True):
        settings = {"game": "Breakout", "terminal_on_life_loss": terminal_on_life_loss}
        env, done = make_env(ATARI, settings), False
        env.reset(seed=0)
        while not done:  # FIRE serves, and the ball falls past a paddle that stands still
            _, _, done, truncated, info = env.step(1)
            assert not truncated
        lives.append(info["lives"])
    assert lives == [0, 4]


def test_a_time_limit_in_steps_truncates():
    env = make_env(ATARI, {"game": "Pong", "max_episode_steps": 3})
    env.reset(seed=0)
    assert [env.step(0)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_several_games_step_together(vectorization):
    envs = make_vec_env(ATARI, 2, vectorization, {"game": "Pong"})
    try:
        obs, _ = envs.reset(seed=[0, 1])
        assert (obs.shape, obs.dtype) == ((2, 4, 84, 84), np.uint8)
        assert envs.step(np.array([2, 3]))[0].shape == (2, 4, 84, 84)
    finally:
        envs.close()


def test_the_emulator_prints_nothing(capfd):
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Info)  # as in a process that has made none yet
    make_env(ATARI, {"game": "Pong"}).reset(seed=0)
    assert capfd.readouterr() == ("", "")


def test_replay_keeps_each_image_once():
    data = ReplayDataModule(ATARI, {"game": "Pong"}, buffer_size=1_000, batch_size=32)
    data.setup("fit")
    images = 1_000 * 84 * 84
    assert images < data.buffer.nbytes < 1.1 * images


def test_a_q_network_takes_the_images():
    env = make_env(ATARI, {"game": "Pong"})
    model = DQN(env.observation_space, env.action_space, compile=False)
    obs = torch.from_numpy(env.reset(seed=0)[0])[None]
    assert model.act(obs, deterministic=True).shape == (1,)


# The emulator's memory is read at every frame in place of its screen, which Gymnasium's wrapper asks for itself


def drawn_at_every_frame(
    game,
    frame_skip=4,
    frame_stack=4,
    noop_max=30,
    terminal_on_life_loss=False,
    repeat_action_probability=0.25,
    full_action_space=False,
):
    """The same game by Gymnasium's wrappers alone."""
    env = gym.make(
        f"ALE/{game}-v5",
        obs_type="grayscale",
        frameskip=1,
        repeat_action_probability=repeat_action_probability,
        full_action_space=full_action_space,
        disable_env_checker=True,
    )
    env = AtariPreprocessing(env, noop_max, frame_skip, terminal_on_life_loss=terminal_on_life_loss)
    return FrameStackObservation(env, frame_stack)


@pytest.fixture
def drawn():
    gym.register("Drawn-v0", drawn_at_every_frame)
    yield "Drawn-v0"
    del gym.registry["Drawn-v0"]


def everything(env, frames):
    """All that resets and steps return over several episodes, which are truncated after `frames` of the emulator."""
    env.unwrapped.ale.setInt("max_num_frames_per_episode", frames)
    env.action_space.seed(5)
    obs, info = env.reset(seed=5)
    seen = [(obs.tobytes(), info)]
    for _ in range(500):
        obs, *rest = env.step(env.action_space.sample())
        seen.append((obs.tobytes(), *rest))
        if rest[1] or rest[2]:
            obs, info = env.reset()
            seen.append((obs.tobytes(), info))
    return seen


@pytest.mark.parametrize(
    ("settings", "frames"),
    [
        ({"game": "Breakout"}, 108_000),
        ({"game": "Breakout", "terminal_on_life_loss": True, "noop_max": 0, "frame_stack": 1}, 108_000),
        ({"game": "Breakout", "frame_skip": 1, "frame_stack": 2}, 201),
        ({"game": "Boxing", "frame_skip": 3, "repeat_action_probability": 0.0, "full_action_space": True}, 201),
        ({"game": "Qbert", "frame_skip": 2, "repeat_action_probability": 1.0, "noop_max": 3}, 201),
    ],
)
def test_every_pixel_reward_flag_and_info_is_as_with_screens_drawn_at_every_frame(settings, frames, drawn):
    expected = everything(make_env(drawn, settings), frames)
    assert everything(make_env(ATARI, settings), frames) == expected
    ends = [step[2:4] for step in expected if len(step) == 5 and True in step[2:4]]
    assert len(ends) > 1
    assert {*ends} == {(False, True) if frames == 201 else (True, False)}


def test_a_state_saved_with_screens_drawn_at_every_frame_is_played_on(drawn):
    before, now, never_saved = (
        make_vec_env(env_id, 1, env_kwargs={"game": "Breakout"}) for env_id in (drawn, ATARI, ATARI)
    )
    for envs in (before, never_saved):
        envs.reset(seed=[3])
        for action in (1, 2, 3, 2, 0, 3, 3):
            envs.step(np.array([action]))
    restore(now, capture(before))
    for action in np.random.default_rng(0).integers(4, size=60):
        found, expected = now.step(action[None]), never_saved.step(action[None])
        assert [part.tobytes() for part in found[:4]] == [part.tobytes() for part in expected[:4]]


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"game": "pong"}, r"game='pong' is not allowed: did you mean Pong"),
        ({"game": "space_invaders"}, r"game='space_invaders' is not allowed: did you mean SpaceInvaders"),
        ({"game": "ALE/Pong-v5"}, r"did you mean Pong"),
        ({"game": "qqqqqq"}, r"game='qqqqqq' is not allowed: list the games"),
        ({"game": 3}, r"game=3 is not allowed"),
        ({"frame_skip": 0}, r"frame_skip=0 is not allowed: give a whole number, 1 or more"),
        ({"frame_stack": 2.5}, r"frame_stack=2.5 is not allowed: give a whole number, 1 or more"),
        ({"noop_max": -1}, r"noop_max=-1 is not allowed: give a whole number, 0 or more"),
        (
            {"repeat_action_probability": 1.5},
            r"repeat_action_probability=1.5 is not allowed: give a number in \[0, 1\]",
        ),
        ({"colour": True}, r"colour"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(settings, message):
    with pytest.raises(UsageError, match=f"env_kwargs=.* is refused by {ATARI}: .*{message}") as caught:
        make_env(ATARI, settings)
    assert "\n" not in str(caught.value)
