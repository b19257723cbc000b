"""The Tab key: words for every setting, and scripts that real shells run."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rl_lightning.cli.help.completion import COMPARE, TUNE, completion, words_of_classes, words_of_program
from rl_lightning.cli.help.subcommands import SUBCOMMANDS
from rl_lightning.cli.main import main
from rl_lightning.cli.shipped import families, names, shipped

LINES = {
    "rl-lightning rep": ["report "],
    "rl-lightning fit --model.": None,
    "rl-lightning fit -c dqn/cartpole --model.": ["--model.double=", "--model.exploration.", "--model.gamma="],
    "rl-lightning fit -c dqn/cartpole --data.ro": [],
    "rl-lightning fit --config=ppo/cartpole --data.ro": ["--data.rollout_steps="],
    "rl-lightning fit --model=SACv2 --model.ent_coef_optimizer.l": ["--model.ent_coef_optimizer.lr="],
    "rl-lightning fit --model=SACv2 --model.n_ep": [],
    "rl-lightning fit -c sac/": ["sac/halfcheetah ", "sac/pendulum "],
    "rl-lightning fit -c ppo/mu": ["ppo/mujoco "],
    "rl-lightning fit --data.vectorization=": ["async ", "auto ", "envpool ", "sync "],
    "rl-lightning fit --model=PP": ["PPO "],
    "rl-lightning fit --trainer.max_ep": ["--trainer.max_epochs="],
    "rl-lightning fit --checkpoint.mode=": ["max ", "min "],
    "rl-lightning resume r": ["runs/"],
    "rl-lightning resume runs/a --chec": ["--checkpoint.", "--checkpoint="],
    "rl-lightning test --ckpt_path=runs/a": ["runs/a/"],
    "rl-lightning completion z": ["zsh "],
    "rl-lightning compare ": ["runs/", "script "],
    "rl-lightning compare runs/a A=r": ["runs/"],
    "rl-lightning compare runs/a --o": ["--output=", "--overwrite "],
    "rl-lightning tune --s": ["--seed=", "--seed_everything=", "--seeds=", "--space="],
    "rl-lightning tune --space=sac_": ["sac_v2 "],
    "rl-lightning configs ": [],
}
ASK = 'COMP_LINE=$1; COMP_POINT=${#1}; COMPREPLY=(); _rl_lightning; printf "%s\\n" "${COMPREPLY[@]}"; echo; '


def keys(prefix: str, settings: dict[str, Any]) -> Iterator[str]:
    """The flags that say what a config says; of an object's settings without `init_args`."""
    for key, value in settings.items():
        if key == "class_path":
            yield prefix
        elif key == "init_args":
            yield from keys(prefix, value)
        elif isinstance(value, dict) and key != "env_kwargs":  # which belong to the environment
            yield from keys(f"{prefix}.{key}", value)
        else:
            yield f"{prefix}.{key}"


@pytest.fixture(scope="module")
def words(parser: Any) -> tuple[set[str], dict[str, set[str]]]:
    of_classes = {name: {*words} for name, words in words_of_classes().items()}
    return {*words_of_program(parser)}, of_classes


@pytest.mark.parametrize("name", names())
def test_every_key_of_a_config_is_a_word(name: str, words: tuple[set[str], dict[str, set[str]]]) -> None:
    config = yaml.safe_load({**shipped(), **families()}[name].read_text())
    of_program, of_classes = words
    for part in ("model", "data"):
        spec = config.pop(part)
        found = {f"{key}=" for key in keys(f"--{part}", spec)}
        assert len(found) > 3
        assert found - {f"--{part}="} <= of_classes[spec["class_path"].rpartition(".")[2]]
        assert f"--{part}={spec['class_path'].rpartition('.')[2]}" in of_program
    assert {f"--{key.lstrip('.')}=" for key in keys("", config)} <= of_program


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_by_the_script(shell: str, parser: Any, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    (tmp_path / "script").write_text(completion([shell], parser))
    (tmp_path / "runs/a").mkdir(parents=True)
    ask = f"source ./script; ask() {{ {ASK} }}; " + "".join(f"ask '{line}'; " for line in LINES)
    quiet = {"bash": ["--norc"], "zsh": ["-f"]}[shell]
    ran = subprocess.run([shell, *quiet, "-c", ask], capture_output=True, text=True, cwd=tmp_path)
    assert ran.stderr == ""
    answers = [sorted(filter(None, answer.split("\n"))) for answer in ran.stdout.split("\n\n")[:-1]]
    for (line, expected), answer in zip(LINES.items(), answers, strict=True):
        stem = line.rpartition(" ")[2].rpartition("=")[0]
        if shell == "zsh" and stem:  # which does not split words at =
            expected = [f"{stem}={word}" for word in expected or []]
        if expected is None:  # of all learners
            assert {"--model.n_epochs=", "--model.double=", "--model.q_optimizer."} <= {*answer}
        elif line.endswith("--model."):
            assert {*expected} <= {*answer}
            assert "--model.n_epochs=" not in answer
        else:
            assert answer == expected, line


def test_fish_completes_by_the_script(parser: Any, tmp_path: Path) -> None:
    if not shutil.which("fish"):
        pytest.skip("no fish here")
    (tmp_path / "script").write_text(completion(["fish"], parser))
    asked = [
        "rl-lightning re",
        "rl-lightning fit --data.num_e",
        "rl-lightning fit --data.overlap=",
        "rl-lightning fit -c sac/p",
    ]
    code = "source ./script; " + "; ".join(f"complete -C '{line}'; echo" for line in asked)
    ran = subprocess.run(["fish", "--no-config", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    answers = [[line.split("\t")[0] for line in answer.splitlines()] for answer in ran.stdout.split("\n\n")]
    assert sorted(answers[0]) == ["report", "resume"]
    assert answers[1] == ["--data.num_envs"]
    assert answers[2] == ["--data.overlap=false", "--data.overlap=true"]
    assert answers[3] == ["sac/pendulum"]


def test_the_shells_that_there_is_a_script_for_are_told_and_others_refused(
    parser: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        completion(["--help"], parser)
    assert end.value.code == 0
    page = capsys.readouterr().out
    assert page.startswith("usage: rl-lightning completion [-h] SHELL\n\n" + SUBCOMMANDS["completion"])
    assert max(map(len, page.splitlines())) <= 82
    with pytest.raises(SystemExit) as end:
        completion(["tcsh"], parser)
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["compare", "tune"])
def test_the_flags_of_commands_with_a_parser_of_their_own_are_words(
    name: str, words: tuple[set[str], dict[str, set[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    options = {*re.findall(r"^ +(?:-\w \w+, )?(--[\w-]+)", capsys.readouterr().out, re.M)}
    of_program, _ = words
    known = {word.partition("=")[0] for word in (COMPARE if name == "compare" else {*TUNE, *of_program})}
    assert len(options) > 3
    assert options <= known
