"""What the program tells of itself: short, quick, and of settings that there are."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rl_lightning
from rl_lightning import Algorithm
from rl_lightning.cli.help.classes import class_help
from rl_lightning.cli.help.completion import words_of_classes, words_of_program
from rl_lightning.cli.help.short import short_help
from rl_lightning.cli.help.subcommands import SUBCOMMANDS
from rl_lightning.cli.lookups import in_words, settings_inside, settings_of
from rl_lightning.cli.main import main
from rl_lightning.cli.shipped import names

ROOT = Path(__file__).parents[2]
ASKED = [["--help"], *([name, "--help"] for name in ("fit", "validate", "test", "predict", "resume"))]


@pytest.mark.parametrize("args", ASKED, ids=" ".join)
def test_a_short_help_fits_on_a_screen(args, capsys):
    main(args)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: rl-lightning ")
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80


def test_a_short_help_comes_wherever_it_is_asked_for_and_the_whole_one_where_all_is():
    assert short_help(["fit", "-c", "sac/pendulum", "-h"]) == short_help(["fit", "--help"])
    for args in (["fit", "--help=all"], ["fit", "--model.help=SAC"], ["report", "--help"], ["fit"], []):
        assert short_help(args) is None


def test_the_programs_help_has_a_line_for_each_subcommand(parser):
    listed = re.findall(r"^  (\w+)  ", short_help(["--help"]).partition("examples:")[0], re.M)
    assert listed == [*SUBCOMMANDS]
    assert set(SUBCOMMANDS) == set(parser._subcommands_action.choices)


def test_short_helps_name_settings_configs_and_subcommands_that_there_are(parser):
    text = "\n".join(short_help(args) for args in ASKED)
    known = {
        word.partition("=")[0] for words in (words_of_program(parser), *words_of_classes().values()) for word in words
    }
    named = set(re.findall(r"--[a-z_.]*[a-z_]", text)) - {"--help", "--video"}
    assert len(named) > 12
    assert named <= known
    assert set(re.findall(r"-c (\w+/\w+)", text)) - {"RUN/config"} <= set(names())
    assert set(re.findall(r"rl-lightning (\w+)", text)) - {"COMMAND"} <= set(SUBCOMMANDS)


def test_short_helps_and_the_list_of_configs_import_no_torch():
    """Whose import takes ten times as long as the rest."""
    code = "import sys; from rl_lightning.__main__ import main; main(); sys.exit('torch' in sys.modules)"
    for args in (["fit", "--help"], ["configs"]):
        assert subprocess.run([sys.executable, "-c", code, *args], capture_output=True, cwd=ROOT).returncode == 0


def test_the_help_of_a_class_has_all_its_settings_with_type_and_default_and_nothing_else(parser, capsys):
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["fit", "--model.help=SAC"])
    assert end.value.code == 0
    page = capsys.readouterr().out
    lines = page.splitlines()
    assert lines[0].startswith("SAC: Soft actor-critic")
    settings = page.partition("config:")[2].partition("\n\nWhat")[0]
    assert re.findall(r"^  (\w+)", settings, re.M) == [setting.name for setting in settings_of("rl_lightning.SAC")]
    text = " ".join(page.split())
    assert "the discount γ, in [0, 1]. (a float; by default 0.99)" in text
    assert "(one of reparameterized, likelihood_ratio; by default reparameterized)" in text
    assert "steps φ. (an Optimizer; by default FusedAdam(lr=0.0003))" in text
    assert "or null; by default null)" in text
    assert len(lines) < 60
    assert max(map(len, lines)) <= 80


def test_the_commands_that_the_help_of_a_class_ends_with_tell_of_what_it_is_given(parser, capsys):
    commands = re.findall(
        r"^  rl-lightning fit (--model=\S+ --model\.\S+)$", class_help("rl_lightning.PPO", "model"), re.M
    )
    assert [command.rpartition("=")[2] for command in commands] == ["LikelihoodRatio", "MLP", "FusedAdam"]
    for command, setting in zip(commands[1:], ("hidden_sizes", "lr"), strict=True):
        unambiguous = command.replace("help=MLP", "help=rl_lightning.MLP")  # torchrl has one, where it is imported
        with pytest.raises(SystemExit):
            parser.parse_args(["fit", *unambiguous.split()])
        page = capsys.readouterr().out
        assert re.search(rf"^  {setting} +", page, re.M)
        assert page.count(f"as --{command.split()[1].removeprefix('--').partition('.help')[0]}.NAME=VALUE") == 1


def test_the_help_of_an_abstract_class_lists_those_that_there_are():
    page = class_help("rl_lightning.Algorithm", "model")
    ours = {cls.__name__ for cls in Algorithm.__subclasses__()} & {*rl_lightning.__all__}
    assert ours <= {*re.findall(r"^  (\w+) ", page, re.M)}
    assert "--model.help=NAME" in page


def test_types_are_told_in_words():
    assert in_words(int | None) == "an int or null"
    assert in_words(bool) == "true or false"
    assert in_words(list[str]) == "a list, each a str"


def test_a_setting_is_found_in_the_objects_that_a_learner_is_given():
    assert settings_inside("rl_lightning.DQN", "lr") == ["q_optimizer.lr"]
    assert settings_inside("rl_lightning.PPO", "hidden_sizes") == ["network.hidden_sizes"]
    assert settings_inside("rl_lightning.PPO", "nothing") == []


@pytest.mark.parametrize(
    "args", [["configs"], ["--help"], ["fit", "-c", "sac/pendulum", "--print_config"], ["fit", "--model.help=TD3"]]
)
def test_the_program_ends_in_silence_where_nobody_reads_on(args):
    read, write = os.pipe()
    os.close(read)  # as head does once it has enough
    done = subprocess.run(
        [sys.executable, "-m", "rl_lightning", *args], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
