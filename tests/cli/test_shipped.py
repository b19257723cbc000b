"""Configs that come with the package: by name, in a list, and with figures that docs/results has."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from rl_lightning.cli.main import main
from rl_lightning.cli.parser import config_files_first
from rl_lightning.cli.shipped import config_path, families, measured, shipped, spaces

ROOT = Path(__file__).parents[2]
RESULTS = yaml.safe_load((ROOT / "configs/results.yaml").read_text())
IN_WORDS = {"ActorCritic": "One-step actor-critic", "SoftQ": "Soft Q-learning", "DiscreteSAC": "Discrete SAC"}


def fit(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as end:
        main(["fit", *arguments])
    return end.value.code


def test_every_config_of_the_repository_has_its_name():
    assert shipped()["sac/pendulum"].samefile(ROOT / "configs/sac/pendulum.yaml")
    files = {path.resolve() for path in (ROOT / "configs").rglob("*/*.yaml")}
    assert {path.resolve() for path in (*shipped().values(), *families().values(), *spaces().values())} == files
    assert not any(name.startswith("sweeps/") for name in shipped()), "a search space is no config of a run"


def test_fit_takes_a_name_for_the_file_wherever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = []
    for config in ("sac/pendulum", str(ROOT / "configs/sac/pendulum.yaml")):
        assert fit("-c", config, "--model.gamma=0.5", "--print_config") == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    settings = yaml.safe_load(printed[0])
    assert settings["data"]["init_args"]["env_id"] == "Pendulum-v1"
    assert settings["model"]["init_args"]["gamma"] == 0.5


def test_a_file_wins_over_a_name_and_a_folder_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sac/pendulum").mkdir(parents=True)
    assert config_path("sac/pendulum") == str(shipped()["sac/pendulum"])
    (tmp_path / "td3").mkdir()
    (tmp_path / "td3/pendulum").touch()
    assert config_path("td3/pendulum") == "td3/pendulum"


@pytest.mark.parametrize("spelling", ["-c {}", "-c{}", "-c={}", "--config {}", "--config={}"])
def test_a_name_is_found_behind_each_spelling_of_the_flag_and_behind_no_other(spelling: str) -> None:
    given, meant = (spelling.format(name).split() for name in ("ppo/cartpole", shipped()["ppo/cartpole"]))
    assert config_files_first(["fit", "--a=ppo/cartpole", *given]) == ["fit", *meant, "--a=ppo/cartpole"]


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("sac/pendulm", "did you mean sac/pendulum, sac_v2/pendulum, td3/pendulum?"),
        ("configs/sac/pendulum.yaml", "did you mean sac/pendulum, sac_v2/pendulum?"),
        ("zzz", "give the path of a YAML file, or a name of `rl-lightning configs`"),
    ],
)
def test_a_name_that_is_nearly_right_is_told_with_the_nearest(
    given: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fit("-c", given) == 2
    assert capsys.readouterr().err == f"error: config={given!r} is not a file that can be read: {advice}\n"


def test_the_list_has_a_line_for_each_config_with_its_task_and_what_was_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["configs"])
    table, _, of_families = capsys.readouterr().out.partition("\n\n")
    lines = [re.split(r"\s{2,}", line) for line in table.splitlines()]
    assert lines[0] == ["config", "environment", "environment steps", "measured return"]
    assert [line[0] for line in lines[1:]] == [*shipped()]
    assert re.search(r"^ppo/mujoco +1,000,000  ppo/halfcheetah$", of_families, re.M)
    assert re.search(r"^ppo/box2d +1,000,000  no config$", of_families, re.M)
    assert ["td3/halfcheetah", "HalfCheetah-v5", "100,000", "5859.2 ± 341.5, 3 seeds"] in lines
    assert ["q_prop/halfcheetah", "HalfCheetah-v5", "500,000", "not measured"] in lines
    with pytest.raises(SystemExit) as end:
        main(["configs", "sac"])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", measured())
def test_a_measured_return_stands_in_the_results_for_that_learner_task_and_length(name: str) -> None:
    [(file, result)] = [(file, results[name]) for file, results in RESULTS.items() if name in results]
    figure, seeds = result.removesuffix(" seeds").split(", ")
    config = yaml.safe_load(shipped()[name].read_text())
    learner = config["model"]["class_path"].rpartition(".")[2]
    task = [IN_WORDS.get(learner, learner), config["data"]["init_args"]["env_id"]]
    found = [
        (heading, line)
        for heading, line in lines_of((ROOT / "docs/results" / file).read_text())
        if f"**{figure}**" in line and all(re.search(rf"\b{word}\b", f"{heading} {line}") for word in task)
    ]
    assert found, f"{figure} for {' on '.join(task)} is not in docs/results/{file}"
    heading, line = found[0]
    steps = re.search(r"([\d,]+) (?:environment )?steps", f"{heading} {line}")
    assert steps is None or int(steps[1].replace(",", "")) == config["data"]["init_args"]["total_env_steps"]
    of_seeds = returns_of_seeds(file, heading, line)
    assert len(of_seeds) == int(seeds)
    mean, deviation = (float(number.replace("−", "-")) for number in figure.split(" ± "))
    assert np.mean(of_seeds) == pytest.approx(mean, abs=0.1)  # of figures that are rounded themselves
    assert np.std(of_seeds) == pytest.approx(deviation, abs=0.1)


def lines_of(text: str) -> list[tuple[str, str]]:
    """Each line with the headings above it."""
    title, heading, found = "", "", []
    for line in text.splitlines():
        if line.startswith("# "):
            title = line
        elif line.startswith("## "):
            heading = line
        found.append((f"{title} {heading}", line))
    return found


def returns_of_seeds(file: str, heading: str, line: str) -> list[float]:
    """From a cell of the line that lists them, else from the rows of the same section that have one seed each."""
    cells = [cell for cell in line.split(" | ") if re.fullmatch(r"−?[\d.]+(, −?[\d.]+)+", cell)]
    if cells:
        return [float(number.replace("−", "-")) for number in cells[0].split(", ")]
    text = (ROOT / "docs/results" / file).read_text()
    rows = [re.match(r"\| \d+ \| (−?[\d.]+) ± ", row) for above, row in lines_of(text) if above == heading]
    return [float(row[1].replace("−", "-")) for row in rows if row]
