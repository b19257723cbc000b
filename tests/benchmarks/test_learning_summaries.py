import json

import pytest

from benchmarks.learning import Run, mean_curve, plot, read_metrics, read_run, report, train

METRICS = """env_steps,step,train/q_loss,val/return_mean,val/return_std,test/return_mean,test/return_std
50,50,0.5,,,,
1000.0,1000,,-900.5,10.0,,
1050,1050,0.4,,,,
2000.0,2000,,-200.0,5.0,,
2000.0,,,,,-157.25,89.5
"""


@pytest.fixture
def runs():
    return [
        Run(0, -150.0, 80.0, 60.0, "rl-lightning fit --seed_everything=0", "abc", {1000.0: -900.0, 2000.0: -200.0}),
        Run(1, -170.0, 90.0, 90.0, "rl-lightning fit --seed_everything=1", "abc", {1000.0: -700.0, 2000.0: -100.0}),
    ]


def test_metrics_are_read_row_by_row_and_empty_cells_skipped(tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS)
    curve, mean, std = read_metrics(tmp_path / "metrics.csv")
    assert curve == {1000.0: -900.5, 2000.0: -200.0}
    assert (mean, std) == (-157.25, 89.5)


def test_metrics_without_evaluation_or_test_give_nothing(tmp_path):
    (tmp_path / "metrics.csv").write_text("env_steps,train/q_loss\n50,0.5\n")
    assert read_metrics(tmp_path / "metrics.csv") == ({}, None, None)


def test_a_run_is_found_in_its_run_folder(tmp_path):
    folder = tmp_path / "SAC-Pendulum-v1" / "20260101-000000-ab12"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(METRICS)
    (tmp_path / "run.json").write_text(json.dumps({"wall_seconds": 12.0, "command": "c", "commit": "abc"}))
    run = read_run(tmp_path, seed=3)
    assert (run.seed, run.test_return_mean, run.wall_seconds) == (3, -157.25, 12.0)


def test_a_missing_run_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.csv"):
        read_run(tmp_path, seed=0)


def test_mean_curve_is_taken_where_every_seed_was_evaluated():
    assert mean_curve([{1.0: 2.0, 2.0: 4.0}, {2.0: 6.0, 1.0: 4.0, 3.0: 9.0}]) == {1.0: 3.0, 2.0: 5.0}


def test_report_states_each_seed_their_mean_and_the_anchor(runs):
    text = report(runs, "sac/pendulum", (-157.0, "Zoo"))
    assert "| 1 | -170.0 ± 90.0 | 1.5 | abc |" in text
    assert "mean ± std of the 2 test means: -160.0 ± 10.0. Published: -157 (Zoo)." in text


def test_report_says_where_a_test_is_missing(runs):
    text = report([Run(2, None, None, 1.0, "c", "abc", {})], "x", None)
    assert "| 2 | none | 0.0 | abc |" in text


def test_plot_writes_a_png(runs, tmp_path):
    pytest.importorskip("matplotlib")
    plot(runs, "sac/pendulum", (-157.0, "Zoo"), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_with_runs_of_another_command_is_refused(tmp_path):
    (tmp_path / "seed_0").mkdir()
    (tmp_path / "seed_0" / "run.json").write_text(json.dumps({"command": "rl-lightning fit -c other.yaml"}))
    with pytest.raises(RuntimeError, match="another --output"):
        train(tmp_path / "config.yaml", 0, [], tmp_path)
