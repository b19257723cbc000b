"""`rl-lightning report`: what stands on the page of a run, and what is refused in one line."""

import platform
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from rl_lightning import __version__
from rl_lightning.cli.main import main
from rl_lightning.cli.pages import figures
from rl_lightning.cli.run_file import note_start
from rl_lightning.cli.run_report import drawings
from rl_lightning.cli.run_report.curves import curves_of
from rl_lightning.cli.run_report.facts import CONFIGS, settings, shipped_config
from rl_lightning.cli.run_report.meanings import FOR_ALL, SOURCE, meanings

ROOT = Path(__file__).parents[2]
HEAD = ",".join(
    ["env_steps", "step", "train/return", "train/policy_loss", "user/<b>"]
    + [f"{stage}/return_{what}" for stage in ("val", "test") for what in ("mean", "std")]
)
ROWS = f"""{HEAD}
64,64,10.0,0.5,1.0,,,,
128,128,,nan,2.0,,,,
128,128,,,,20.0,3.0,,
128.0,128,,,,,,25.0,4.0
192,192,7"""  # the last line is being written


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that differs from the shipped config by one setting."""
    folder = tmp_path / "20260101-120000-ab12"
    (folder / "videos").mkdir(parents=True)
    text = (ROOT / "configs/ppo/cartpole.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("gae_lambda: 0.8", "gae_lambda: 0.9"))
    (folder / "metrics.csv").write_text(ROWS)
    return folder


def refusal(*args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["report", *args])
    assert "\n" not in str(stop.value)
    return str(stop.value)


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="the extra report")
def test_the_page_has_curves_meanings_evaluations_films_and_settings_and_loads_nothing(run, monkeypatch, capsys):
    (run / "videos/64-0.mp4").write_bytes(b"small")
    (run / "videos/128-0.mp4").write_bytes(b"large" * 10)
    note_start(run, ["fit", "-c", "ppo/cartpole"])
    note_start(run, ["resume", "here & there"])
    monkeypatch.setattr("rl_lightning.cli.run_report.page.EMBEDDED", 20)
    main(["report", str(run)])
    assert str(run / "report.html") in capsys.readouterr().out
    assert (run / "report.png").read_bytes().startswith(b"\x89PNG")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["Evaluation", "Returns", "Losses", "Others", "Films", "Settings"]
    assert re.findall(r"<figcaption><b>(.*?)</b>", page) == [
        "train/return",
        "val/return_mean",
        "train/policy_loss",
        "user/&lt;b&gt;",
    ]
    assert "rl-lightning fit -c ppo/cartpole; then rl-lightning resume &#x27;here &amp; there&#x27;" in page
    assert f"Python {platform.python_version()}, rl_lightning {__version__}, torch {version('torch')}" in page
    assert "20.0&nbsp;±&nbsp;3.0" in page
    assert "25.0&nbsp;±&nbsp;4.0" in page
    assert '<svg class="tex"' in page
    assert re.findall(r'<video [^>]*src="(.*?)"', page) == ["data:video/mp4;base64,c21hbGw=", "videos/128-0.mp4"]
    assert re.findall(r"<code>(model.*?)</code></td><td><code>(.*?)</code></td><td><code>(.*?)</code>", page) == [
        ("model.gae_lambda", "0.9", "0.8")
    ]
    loaded = re.findall(r'(?:src|href)="(?!#|data:|videos/)(.*?)"|url\((?!#)(.*?)\)|@import', page)
    assert loaded == []


def test_curves_leave_out_what_is_not_finite_the_final_test_and_the_deviation():
    rows = [
        {"env_steps": "64", "train/q_loss": "1.0", "train/entropy": "nan"},
        {"env_steps": "128", "train/q_loss": "inf", "val/return_mean": "2.0", "val/return_std": "0.5"},
        {"env_steps": "128", "test/return_mean": "3.0", "test/return_std": "0.5"},
    ]
    groups = curves_of(rows)
    assert [*groups] == ["Returns", "Losses"]
    assert groups["Returns"] == [drawings.Curve("val/return_mean", [128.0], [2.0], [0.5])]
    assert groups["Losses"] == [drawings.Curve("train/q_loss", [64.0], [1.0], None)]


def test_each_learner_has_its_own_meaning_of_a_metric_and_none_of_others():
    text = SOURCE.read_text(encoding="utf-8")
    assert "L^\\text{CLIP}" in meanings(text, "PPO")["train/policy_loss"].text
    assert meanings(text, "SAC")["train/q_loss"].text.startswith("Eq. 7")
    assert meanings(text, "SAC")["train/entropy"] != meanings(text, "PPO")["train/entropy"]
    assert "train/line_search_tries" not in meanings(text, "PPO")
    assert "train/v_mean" not in meanings(text, "DQN")
    assert {row.section for row in meanings(text, "MyOwn").values()} == {FOR_ALL}


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="the extra report")
def test_every_equation_of_the_metrics_can_be_drawn():
    lines = [line for line in SOURCE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    equations = [tex for line in lines for tex in re.findall(r"\$(.*?)\$", line)]
    assert len(equations) > 40
    assert [tex for tex in equations if drawings.equation(tex) is None] == []


def test_the_nearest_shipped_config_is_the_one_of_fewest_differences(tmp_path):
    its = settings(CONFIGS / "dqn/q_learning_cartpole.yaml")
    assert shipped_config(its) == ("configs/dqn/q_learning_cartpole.yaml", {})
    assert shipped_config(its | {"data.env_id": "Nowhere-v0"}) is None
    rest = {"trainer.logger.class_path": "WandbRun", "trainer.max_epochs": -1, "trainer.callbacks": None}
    assert shipped_config(its | rest | {"trainer.default_root_dir": "mine"}) == shipped_config(its)
    assert shipped_config(its | {"trainer.logger": False})[1] == {"trainer.logger.class_path": ("WandbRun", "<unset>")}
    other = {"trainer.gradient_clip_val": 0.5, "trainer.logger.class_path": "TensorBoardLogger"}
    assert shipped_config(its | rest | other)[1] == {
        "trainer.gradient_clip_val": (None, 0.5),
        "trainer.logger.class_path": ("WandbRun", "TensorBoardLogger"),
    }


def test_what_is_no_run_or_has_no_rows_is_refused_in_one_line(run, tmp_path, monkeypatch):
    assert "does not exist" in refusal(str(tmp_path / "none"))
    assert "it has no config.yaml" in refusal(str(tmp_path))
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    assert 'pip install "rl_lightning[report]"' in refusal(str(run))
    (run / "metrics.csv").write_text(HEAD + "\n")
    assert "has no rows in its metrics.csv" in refusal(str(run))
    (run / "metrics.csv").unlink()
    assert "has no rows in its metrics.csv" in refusal(str(run))
    assert not (run / "report.html").exists()
