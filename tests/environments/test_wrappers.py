"""Wrappers of a run: around every environment, named in what is saved, refused where they would spoil it."""

import json
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.wrappers import (
    DelayObservation,
    FlattenObservation,
    FrameStackObservation,
    NormalizeObservation,
    NormalizeReward,
    TimeLimit,
)
from toys import CounterEnv, counter_data, fit, make_trainer, tiny_sac

from rl_lightning import PPO, SAC, ReplayDataModule, RolloutDataModule, RolloutReplayDataModule, UsageError, make_env
from rl_lightning.cli.main import RLCLI
from rl_lightning.environments.cartpole import CartPoleVector
from rl_lightning.environments.make import make_vec_env
from rl_lightning.environments.state import why_not_restorable
from rl_lightning.environments.wrappers import described, name_of
from rl_lightning.policies.card import card
from rl_lightning.policies.description import check_description

SHORT = partial(TimeLimit, max_episode_steps=3)
LIMIT = {"class_path": "gymnasium.wrappers.common.TimeLimit", "init_args": {"max_episode_steps": 3}}


class Shifted(gym.ObservationWrapper):
    """Observations with a number added; nothing but plain attributes, unless it `hides` its count in a generator."""

    def __init__(self, env, by=1.0, hides=False):
        super().__init__(env)
        self.by = by
        self.count = (number for number in range(10**6)) if hides else 0

    def observation(self, obs):
        if not isinstance(self.count, int):
            return obs + next(self.count)
        self.count += 1
        return obs + self.by * self.count


def shortened(env: gym.Env) -> gym.Env:
    return TimeLimit(env, 3)


def test_the_first_wrapper_is_innermost_and_spaces_are_those_of_the_whole():
    env = make_env("CartPole-v1", wrappers=[FlattenObservation, partial(FrameStackObservation, stack_size=2)])
    assert env.observation_space.shape == (2, 4)
    assert [type(env.env), type(env.env.env)] == [FrameStackObservation, FlattenObservation]
    env = make_env("CartPole-v1", wrappers=[partial(FrameStackObservation, stack_size=2), FlattenObservation])
    assert env.observation_space.shape == (8,)


def test_a_wrappers_actions_are_rescaled_for_learners_and_are_the_environments_own_to_a_policy():
    wrapper = partial(gym.wrappers.RescaleAction, min_action=np.float32(-5), max_action=np.float32(5))
    env = make_env("Pendulum-v1", wrappers=[wrapper])
    assert env.action_space == Box(-1.0, 1.0, (1,), np.float32)
    assert env.own_action_space == Box(-5.0, 5.0, (1,), np.float32)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("wrapper", [SHORT, shortened])
def test_training_evaluation_and_recorded_episodes_have_the_same_wrappers(wrapper, vectorization):
    data = counter_data(env_kwargs={"length": 9}, wrappers=[wrapper], num_envs=2, vectorization=vectorization)
    model, trainer = tiny_sac(data.observation_space, data.action_space), make_trainer(validate=True)
    fit(model, data, trainer)
    stored = data.buffer.storage
    t = stored.next_obs[: data.buffer.filled_rows, :, 1]
    assert t.max() == 3
    assert np.array_equal(stored.truncated[: data.buffer.filled_rows].numpy(), (t == 3).numpy())
    assert trainer.validate(model, data, verbose=False)[0]["val/episode_length_mean"] == 3
    assert trainer.test(model, data, verbose=False)[0]["test/episode_length_mean"] == 3
    assert {len(episode.reward) for batch in trainer.predict(model, data) for episode in batch} == {3}


@pytest.mark.parametrize("kind", [ReplayDataModule, RolloutDataModule, RolloutReplayDataModule])
def test_every_datamodule_takes_wrappers_and_a_time_limit_of_theirs_is_one(kind):
    data = kind("toys:Counter-v0", wrappers=[SHORT], total_env_steps=2_000)
    assert data.eval_limit is None
    assert data.described_wrappers == [LIMIT]
    assert kind("toys:Counter-v0", total_env_steps=2_000).eval_limit == 10_000


def test_gymnasiums_own_vector_is_left_for_wrapped_environments():
    assert isinstance(make_vec_env("CartPole-v1", 6, "auto"), CartPoleVector)
    envs = make_vec_env("CartPole-v1", 6, "auto", wrappers=[FlattenObservation])
    assert {type(env.env) for env in envs.envs} == {FlattenObservation}


def test_a_stack_of_frames_by_a_wrapper_is_kept_frame_by_frame():
    data = ReplayDataModule(
        "toys:Images-v0", wrappers=[partial(FrameStackObservation, stack_size=3)], total_env_steps=2_000
    )
    assert data.frame_stack == 3


# Named


def test_a_wrapper_is_described_as_a_config_has_it_from_python_and_from_the_command_line():
    assert described(SHORT) == described(partial(partial(TimeLimit), max_episode_steps=3)) == LIMIT
    assert described(FlattenObservation)["init_args"] == {}
    assert described(shortened) == {"class_path": f"{__name__}.shortened", "init_args": {}}
    assert name_of(SHORT) == "TimeLimit(max_episode_steps=3)"
    for value, words in (
        (object(), "<object object>"),
        ({(1, 2): 3}, "{(1, 2): 3}"),
        ((4, 5), [4, 5]),
        (np.eye(2), [[1.0, 0.0], [0.0, 1.0]]),
        (np.int64(3), 3),
    ):
        assert described(partial(Shifted, by=value))["init_args"] == {"by": words}, "no address of this process"

    data = from_the_command_line(
        "toys:Counter-v0", "--data.wrappers+=gymnasium.wrappers.TimeLimit", "--data.wrappers.max_episode_steps=3"
    )
    assert data.described_wrappers == [LIMIT]
    assert data.eval_envs().envs[0].spec.max_episode_steps == 3


def from_the_command_line(env_id, *flags):
    class DataOnly(RLCLI):
        def before_instantiate_classes(self):
            raise InterruptedError(self.parser.instantiate(self.config)[self.subcommand].data)

    with pytest.raises(InterruptedError) as made:
        DataOnly(["fit", "--model=SAC", "--data=ReplayDataModule", f"--data.env_id={env_id}", *flags])
    return made.value.args[0]


@pytest.mark.parametrize(
    ("low", "bounds"), [("-100", [-100.0] * 3), ("-2.5", [-2.5] * 3), ("[-3, -2, -1.5]", [-3.0, -2.0, -1.5])]
)
def test_what_a_wrapper_takes_as_numpys_is_written_as_a_number_or_a_list(low, bounds):
    wrapper = "gymnasium.wrappers.RescaleObservation"
    data = from_the_command_line(
        "Pendulum-v1",
        f"--data.wrappers+={wrapper}",
        f"--data.wrappers.min_obs={low}",
        "--data.wrappers.max_obs=200",
    )
    space = data.eval_envs().envs[0].observation_space
    assert space.low.tolist() == bounds
    assert space.high.tolist() == [200.0] * 3
    [told] = data.described_wrappers
    assert told["init_args"] == {"min_obs": bounds if "[" in low else float(low), "max_obs": 200.0}


@pytest.mark.parametrize("value", ["abc", {}, [1, "b"], True, None])
def test_what_is_no_number_for_numpy_is_refused_in_one_line(value, capsys):
    wrapper = {"class_path": "gymnasium.wrappers.RescaleObservation", "init_args": {"min_obs": value, "max_obs": 1.0}}
    with pytest.raises(SystemExit):
        from_the_command_line("Pendulum-v1", f"--data.wrappers=[{json.dumps(wrapper)}]")
    [line] = capsys.readouterr().err.splitlines()
    assert "min_obs" in line


def test_a_policys_description_and_its_card_have_the_wrappers(tmp_path):
    data = counter_data(wrappers=[SHORT, partial(Shifted, by=2.0)], total_env_steps=20)
    model = tiny_sac(data.observation_space, data.action_space)
    fit(model, data)
    description = model.policy_description()
    assert description["wrappers"] == [LIMIT, {"class_path": f"{__name__}.Shifted", "init_args": {"by": 2.0}}]
    check_description(description, "mine")
    text = card(description | {"weights": {"file": "policy.safetensors", "sha256": "0"}})
    code = text.partition("import gymnasium as gym\n")[2].partition("obs, _ =")[0].replace("toys:", "")
    scope = {"gym": gym}
    exec(code, scope)
    assert [type(scope["env"]), type(scope["env"].env)] == [Shifted, TimeLimit]
    assert scope["env"].by == 2.0
    with pytest.raises(UsageError, match="describes no policy"):
        check_description(description | {"wrappers": ["os.system"]}, "mine")


class Named(CounterEnv):
    def __init__(self, id: str = "", size: int = 0):
        super().__init__()
        self.id, self.size = id, size


gym.register("Named-v0", Named, kwargs={"size": 3})


@pytest.mark.parametrize("env_id", ["Named-v0", "toys:Named-v0"])
def test_the_card_makes_an_environment_that_has_an_argument_named_id(env_id):
    data = ReplayDataModule(env_id, env_kwargs={"id": "mine"}, total_env_steps=20, learning_starts=10, batch_size=4)
    model = tiny_sac(data.observation_space, data.action_space)
    fit(model, data)
    text = card(model.policy_description() | {"weights": {"file": "policy.safetensors", "sha256": "0"}})
    scope = {}
    exec(text.partition("In its environment:\n\n```python\n")[2].partition("obs, _ =")[0], scope)
    assert (scope["env"].unwrapped.id, scope["env"].unwrapped.size) == ("mine", 3)
    assert gym.spec("Named-v0").kwargs == {"size": 3}


# Going on


def test_wrapped_environments_go_on_exactly_and_one_that_hides_its_state_is_told_why_not():
    around = [partial(DelayObservation, delay=2), Shifted, SHORT]
    assert why_not_restorable("toys:Counter-v0", wrappers=around) is None
    reason = why_not_restorable("toys:Counter-v0", wrappers=[partial(Shifted, hides=True)])
    assert reason is not None
    assert "`count` (generator)" in reason
    assert reason.startswith("toys:Counter-v0: its attribute")


# Refused


@pytest.mark.parametrize(
    ("wrapper", "setting"),
    [(NormalizeObservation, "normalize_observations"), (NormalizeReward, "normalize_returns")],
)
def test_wrappers_with_statistics_of_their_own_are_refused_with_the_setting_that_does_it_right(wrapper, setting):
    with pytest.raises(UsageError, match=f"^{wrapper.__name__} around Pendulum-v1 .*--model.{setting}=true") as caught:
        RolloutDataModule("Pendulum-v1", wrappers=[wrapper, FlattenObservation])
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="NormalizeReward around stateful:Wrapped-v0"):
        RolloutDataModule("stateful:Wrapped-v0")
    data = RolloutDataModule("Pendulum-v1")
    for learner in (PPO, SAC):
        learner(data.observation_space, data.action_space, **{setting: True})


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        (
            partial(TimeLimit, steps=3),
            r"wrappers\[1\]=TimeLimit\(steps=3\) cannot be put around .*raised TypeError: .*step",
        ),
        (partial(TimeLimit, max_episode_steps=-3), "raised ValueError"),
        (lambda env: 3, r"wrappers\[1\]=<lambda>\(\) is not allowed: it returned no environment but int; give"),
    ],
)
def test_a_wrapper_that_fails_is_named_and_the_environment_in_it_is_closed(wrapper, message):
    CounterEnv.made.clear()
    with pytest.raises(UsageError, match=message) as caught:
        make_env("toys:Counter-v0", wrappers=[FlattenObservation, wrapper])
    assert "\n" not in str(caught.value)
    assert [env.closed for env in CounterEnv.made] == [True]


def test_wrappers_are_refused_around_environments_of_envpool():
    with pytest.raises(UsageError, match=r"^wrappers=\['TimeLimit\(max_episode_steps=3\)'\] .*vectorization=sync"):
        RolloutDataModule("CartPole-v1", vectorization="envpool", wrappers=[SHORT])
