"""Variables of the environment are switches or nothing, and one that would do nothing is refused."""

import re
from pathlib import Path

import pytest

from rl_lightning.cli.environment_variables import SWITCHES, check_environment_variables
from rl_lightning.cli.main import main
from rl_lightning.cli.parser import config_files_first
from rl_lightning.errors import UsageError

ROOT = Path(__file__).parents[2]


def test_the_switches_are_those_that_the_code_reads():
    code = "".join(path.read_text() for path in (ROOT / "rl_lightning").rglob("*.py") if "cli" not in path.parts)
    assert {*re.findall(r"RL_LIGHTNING_[A-Z_]*[A-Z]", code)} == {*SWITCHES}
    check_environment_variables([*SWITCHES, "PL_GLOBAL_SEED", "PATH"])


@pytest.mark.parametrize(
    "name", ["RL_LIGHTNING_FSAT", "RL_LIGHTNING_FIT__DATA__NUM_ENVS", "PL_FIT__SEED_EVERYTHING", "PL_TRAINER_DEVICES"]
)
def test_a_variable_that_looks_like_a_setting_is_refused(name):
    with pytest.raises(UsageError, match=f"the environment variable {name} would do nothing"):
        check_environment_variables(["PATH", name])


def test_the_program_refuses_it_in_one_line(monkeypatch):
    monkeypatch.setenv("PL_FIT__SEED_EVERYTHING", "3")
    with pytest.raises(SystemExit) as end:
        main(["fit", "-c", "sac/pendulum"])
    assert end.value.code.startswith("error: the environment variable PL_FIT__SEED_EVERYTHING would do nothing")


def test_a_config_takes_a_variable_by_its_name(parser, tmp_path, monkeypatch):
    config = tmp_path / "config.yaml"
    config.write_text("seed_everything: ${oc.env:MY_SEED,7}")
    given = config_files_first(["fit", "-c", "sac/pendulum", "-c", str(config)])
    assert parser.parse_args(given)["fit"].seed_everything == 7
    monkeypatch.setenv("MY_SEED", "4")
    assert parser.parse_args(given)["fit"].seed_everything == 4
