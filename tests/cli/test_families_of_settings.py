"""Settings to begin from in a new environment: they fit it, and are those that were measured where that is said."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import yaml
from jsonargparse import Namespace
from test_main import packages_of_extras

from rl_lightning.cli.parser import config_files_first
from rl_lightning.cli.shipped import families, measured, shipped

ROOT = Path(__file__).parents[2]
FACTS: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "configs/families.yaml").read_text())
EACH = [(name, env_id) for name, facts in FACTS.items() for env_id in facts["environments"]]
OF_A_RUN = {"env_id", "env_kwargs", "total_env_steps", "env_steps_per_epoch"}


def parse(parser: Any, *args: str) -> Namespace:
    return parser.parse_args(config_files_first(["fit", *args]))["fit"]


def test_every_family_has_its_file_and_a_name_that_no_config_has():
    assert {*FACTS} == {*families()}
    assert not {*FACTS} & {*shipped()}


@pytest.mark.parametrize(("name", "env_id"), EACH)
def test_learner_and_data_of_a_family_are_made_for_its_environments(parser, name, env_id):
    for package in (*packages_of_extras(env_id), *(["Box2D"] if name.endswith("/box2d") else [])):
        pytest.importorskip(package)
    only = {"fit": parse(parser, "-c", name, f"--data.env_id={env_id}", "--trainer.accelerator=cpu")}
    made = parser.instantiate(Namespace(only))["fit"]
    made.model.check_data(made.data)
    assert made.data.observation_space == made.model.observation_space


@pytest.mark.parametrize("name", [name for name, facts in FACTS.items() if facts["settings_of"]])
def test_a_family_has_the_settings_of_the_config_that_it_names(parser, name):
    other = FACTS[name]["settings_of"]
    assert other in measured() or other == "dqn/pong"
    env_id = f"--data.env_id={FACTS[name]['environments'][0]}"
    one, two = (parse(parser, "-c", config, env_id) for config in (name, other))
    assert one.model.as_dict() == two.model.as_dict()
    assert one.data.class_path == two.data.class_path
    settings = [
        {k: v for k, v in data.init_args.as_dict().items() if k not in OF_A_RUN} for data in (one.data, two.data)
    ]
    plain = [{**data, "env_kwargs": None, "wrappers": data["wrappers"] or None} for data in settings]
    assert plain[0] == plain[1]


@pytest.mark.parametrize("name", [name for name in FACTS if not name.endswith("/atari")])
def test_a_family_without_an_environment_is_refused_with_how_to_give_one(parser, capsys, name):
    with pytest.raises(SystemExit):
        parse(parser, "-c", name)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: data.env_id is required: give --data.env_id=")


def test_a_later_file_changes_what_it_names_and_leaves_the_rest(parser, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "data: {init_args: {env_id: Hopper-v5}}\nmodel: {init_args: {value_optimizer: {init_args: {lr: 0.5}}}}"
    )
    settings = parse(parser, "-c", "ppo/mujoco", "-c", str(mine), "--data.num_envs=2")
    assert settings.data.init_args.env_id == "Hopper-v5"
    assert settings.data.init_args.rollout_steps == 512
    assert settings.data.init_args.num_envs == 2
    optimizers = [settings.model.init_args[f"{name}_optimizer"].init_args for name in ("value", "policy")]
    assert [optimizer.lr for optimizer in optimizers] == [0.5, 3e-4]
    assert [optimizer.eps for optimizer in optimizers] == [1e-5, 1e-5]


def test_another_learner_keeps_the_settings_that_it_has_too(parser):
    settings = parse(parser, "-c", "td3/mujoco", "--data.env_id=Hopper-v5", "--model=DDPG").model
    assert settings.class_path == "rl_lightning.DDPG"
    assert settings.init_args.network.init_args.hidden_sizes == [400, 300]
    assert "policy_delay" not in settings.init_args


def test_the_environments_of_a_family_are_registered():
    for _, env_id in EACH:
        assert ":" in env_id or gym.spec(env_id).id == env_id
