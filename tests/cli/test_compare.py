"""`rl-lightning compare`: its statistics beside rliable's and by hand, and what it prints, writes and refuses."""

import csv
import re
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rl_lightning.cli.main import main
from rl_lightning.cli.several.compare.comparison import SECONDS, STEPS, common_tasks, scopes_of
from rl_lightning.cli.several.compare.scales import scales_of
from rl_lightning.cli.several.compare.sides import sides_of
from rl_lightning.cli.several.compare.statistics import (
    Sample,
    cut,
    estimate,
    holm,
    improvement,
    permutation_p,
    profile,
    resampled_weights,
    seeds_needed,
    trimmed_mean,
    variance_of_one,
    weights_of,
)

ROOT = Path(__file__).parents[2]
TEST = "test/return_mean"

# rliable 1.2.0 (arch 7.2.0, scipy 1.17.1), [runs, tasks], np.random.seed(0): get_interval_estimates of aggregate_iqm
# and aggregate_mean with 50,000 resamples, of their difference with 20,000, of probability_of_improvement with 4,000,
# and create_performance_profile with 20,000
X = [[0.31, 0.92, 0.10], [0.55, 0.88, 0.42], [0.47, 0.71, 0.42], [0.12, 0.97, 0.08], [0.60, 0.83, 0.77]]
Y = [[0.31, 0.60, 0.42], [0.20, 0.95, 0.05], [0.44, 0.52, 0.30], [0.09, 0.71, 0.66]]
RLIABLE = {
    ("X", "IQM"): (0.5644444444, 0.4211111111, 0.6655555556),
    ("X", "mean"): (0.5433333333, 0.4506666667, 0.6373333333),
    ("Y", "IQM"): (0.4316666667, 0.305, 0.5433333333),
    ("Y", "mean"): (0.4375, 0.34, 0.5375),
    "one task": (0.4433333333, 0.1833333333, 0.5833333333),
    "difference": (0.1327777778, -0.045, 0.2922222222),
    "improvement": (0.7, 0.4833333333, 0.8833333333),
}
THRESHOLDS = [0.1, 0.31, 0.5, 0.8]
PROFILE = [0.86666667, 0.73333333, 0.53333333, 0.26666667]
PROFILE_LOW = [0.73333333, 0.53333333, 0.33333333, 0.13333333]
PROFILE_HIGH = [1.0, 0.93333333, 0.73333333, 0.33333333]


def sample(matrix) -> Sample:
    """Runs by tasks, as rliable has them; a ragged list has a list for each task."""
    columns = np.array(matrix).T.tolist() if isinstance(matrix[0], list) else [matrix]
    return of_tasks(columns)


def of_tasks(columns) -> Sample:
    scores = np.array([score for column in columns for score in column], dtype=float)
    return Sample(scores, np.array([task for task, column in enumerate(columns) for _ in column]))


def measure(its: Sample, name: str, weights=None):
    weights = weights_of(its.tasks) if weights is None else weights
    return trimmed_mean(its.scores, weights, cut(name, len(its.scores)))


def resampled(its: Sample, seed: int = 0):
    return resampled_weights(its.tasks, np.random.default_rng(seed), 20_000)


def within(found, expected, tolerance: float = 0.012) -> None:
    assert found.value == pytest.approx(expected[0], abs=1e-6)
    assert (found.low, found.high) == pytest.approx(expected[1:], abs=tolerance)


def test_measures_and_their_intervals_are_those_of_rliable():
    for name, its in (("X", sample(X)), ("Y", sample(Y))):
        for what in ("IQM", "mean"):
            found = estimate(measure(its, what), measure(its, what, resampled(its)), True)
            within(found, RLIABLE[name, what])
    one = sample([row[0] for row in X])
    within(estimate(measure(one, "IQM"), measure(one, "IQM", resampled(one)), True), RLIABLE["one task"])


def test_difference_improvement_and_profile_are_those_of_rliable():
    x, y = sample(X), sample(Y)
    wx, wy = resampled(x), resampled(y, 1)
    difference = measure(x, "IQM", wx) - measure(y, "IQM", wy)
    within(estimate(measure(x, "IQM") - measure(y, "IQM"), difference, True), RLIABLE["difference"])
    probability = improvement(x, y, weights_of(x.tasks), weights_of(y.tasks))
    within(estimate(probability, improvement(x, y, wx, wy), True), RLIABLE["improvement"], tolerance=0.02)
    thresholds = np.array(THRESHOLDS)
    np.testing.assert_allclose(profile(x.scores, weights_of(x.tasks), thresholds), PROFILE, atol=1e-6)
    low, high = np.quantile(profile(x.scores, wx, thresholds), [0.025, 0.975], axis=0)
    # one run of 15: 0.0255 of the resamples are at the low end of τ = 0.5, so chance decides about the next one
    np.testing.assert_allclose(low, PROFILE_LOW, atol=1 / 15 + 1e-6)
    np.testing.assert_allclose(high, PROFILE_HIGH, atol=1 / 15 + 1e-6)


def test_measures_by_hand():
    four = sample([90.0, 0.0, 20.0, 10.0])
    assert measure(four, "IQM") == pytest.approx(15)
    assert measure(four, "median") == pytest.approx(15)
    assert measure(sample([90.0, 0.0, 20.0]), "median") == pytest.approx(20)
    unequal = of_tasks([[0.0, 1.0], [10.0]])  # tasks weigh the same: ¼, ¼, ½
    assert measure(unequal, "mean") == pytest.approx(5.25)
    assert measure(unequal, "median") == pytest.approx(3 * (0.5 - 1 / 3) * 10 + 3 * (0.5 - 1 / 3) * 1)


def test_probability_of_improvement_by_hand():
    a, b = sample([1.0, 2.0]), sample([2.0, 0.0])
    assert improvement(a, b, weights_of(a.tasks), weights_of(b.tasks)) == pytest.approx(2.5 / 4)
    c, d = of_tasks([[1.0], [5.0, 7.0]]), of_tasks([[0.0], [6.0]])  # the mean of 1 and ½: no pairs between tasks
    assert improvement(c, d, weights_of(c.tasks), weights_of(d.tasks)) == pytest.approx(0.75)


SCORES = st.lists(st.integers(-50, 50).map(float), min_size=2, max_size=7)


@given(SCORES, SCORES)
def test_one_of_two_sides_is_better_or_they_are_equal(first, second):
    a, b = sample(first), sample(second)
    its = weights_of(a.tasks), weights_of(b.tasks)
    assert improvement(a, b, *its) + improvement(b, a, *its[::-1]) == pytest.approx(1)


@given(SCORES, SCORES, st.randoms(), st.integers(-1000, 1000), st.sampled_from(["IQM", "mean", "median"]))
def test_measures_move_with_the_scores_whatever_their_order(first, second, random, shift, what):
    its = of_tasks([first, second])
    order = list(range(len(its.scores)))
    random.shuffle(order)
    other = Sample(its.scores[order] + shift, its.tasks[order])
    assert measure(other, what) == pytest.approx(measure(its, what) + shift, abs=1e-9)
    assert min(first + second) - 1e-9 <= measure(its, what) <= max(first + second) + 1e-9


@given(st.integers(2, 9), st.floats(-1e3, 1e3))
def test_the_interval_of_equal_runs_is_their_value(runs, value):
    its = sample([value] * runs)
    found = estimate(measure(its, "IQM"), measure(its, "IQM", resampled_weights(its.tasks, RNG, 50)), True)
    assert found == pytest.approx((value, value, value))


RNG = np.random.default_rng(0)


def test_the_permutation_test_is_that_of_all_relabellings():
    a, b = [3.0, 9.0, 4.0, 6.0], [1.0, 5.0, 2.0, 0.0]
    differences = []
    for chosen in combinations(range(8), 4):
        one = [(a + b)[i] for i in chosen]
        two = [(a + b)[i] for i in range(8) if i not in chosen]
        differences.append(abs(np.mean(sorted(one)[1:3]) - np.mean(sorted(two)[1:3])))
    exact = np.mean(np.array(differences) >= 5 - 1.5 - 1e-9)
    assert permutation_p(sample(a), sample(b), "IQM", RNG) == pytest.approx(exact, abs=0.01)


def test_three_seeds_of_each_side_are_never_enough_and_tasks_are_not_mixed():
    a, b = sample([7.0, 8.0, 9.0]), sample([1.0, 2.0, 3.0])
    assert permutation_p(a, b, "IQM", RNG) == pytest.approx(2 / 20, abs=0.01)
    assert permutation_p(a, a, "IQM", RNG) == 1
    two = of_tasks([[7.0, 8.0, 9.0], [107.0, 108.0, 109.0]]), of_tasks([[1.0, 2.0, 3.0], [101.0, 102.0, 103.0]])
    assert permutation_p(*two, "mean", RNG) == pytest.approx(2 / 400, abs=0.003)


def test_p_values_of_several_pairs_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_seeds_needed_are_those_of_the_t_test():
    # statsmodels 0.15.0, TTestIndPower().solve_power(d, power=0.8, alpha=0.05): 63.77 and 16.71
    assert seeds_needed(0.5, 2.0) == 64
    assert seeds_needed(-1.0, 2.0) == 17
    assert seeds_needed(100.0, 2.0) == 5  # with four no difference could be found
    assert seeds_needed(0.0, 2.0) is None
    its = sample([1.0, 2.0, 4.0, 8.0, 16.0])
    assert variance_of_one(its, measure(its, "mean", resampled(its))) == pytest.approx(np.var(its.scores, ddof=1), 0.05)
    two = of_tasks([[1.0, 3.0], [10.0, 14.0]])  # variances 2 and 8 of the tasks, of their mean a quarter of the sum
    assert variance_of_one(two, measure(two, "mean", resampled(two))) == pytest.approx(2.5, 0.05)


# Folders, with the columns and numbers of a run's

HEAD = f"env_steps,step,test/return_mean,time/env_steps_per_second,train/return,{TEST.replace('test', 'val')}"


def write_run(
    folder: Path, score: float | None, seed: int = 0, learner: str = "ppo", env_id: str = "CartPole-v1", **more: str
) -> Path:
    """A run that was evaluated at 100 and 300 steps, at 50 and then 100 steps per second."""
    folder.mkdir(parents=True)
    text = (ROOT / f"configs/{learner}/cartpole.yaml").read_text().replace("CartPole-v1", env_id)
    text = re.sub(r"seed_everything: 0 ", f"seed_everything: {seed} ", text)
    for key, value in more.items():
        text = re.sub(rf"{key}: \S+", f"{key}: {value}", text)
    (folder / "config.yaml").write_text(text)
    rows = [HEAD, "100,100,,50.0,1.0,", f"100,100,,,,{(score or 0) / 2}", "300,300,,100.0,1.0,", "300,300,,,,7.5"]
    (folder / "metrics.csv").write_text(
        "\n".join([*rows, *([f"300.0,300,{score},,,"] if score is not None else []), ""])
    )
    return folder


def write_group(folder: Path, scores, **more: str) -> Path:
    for seed, score in enumerate(scores):
        write_run(folder / f"seed-{seed}", score, seed, **more)
    return folder


@pytest.fixture
def groups(tmp_path: Path) -> tuple[str, str]:
    a2c = write_group(tmp_path / "a2c", [10.0, 30.0, 20.0, 40.0, 30.0], learner="a2c")
    return str(a2c), str(write_group(tmp_path / "ppo", [20.0, 60.0, 50.0, 40.0, 50.0]))


def said(capsys, *args: str) -> str:
    main(["compare", *args])
    return " ".join(capsys.readouterr().out.split())


def refusal(*args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["compare", *args])
    assert "\n" not in str(stop.value)
    return str(stop.value)


def test_two_sides_are_told_apart_or_not_in_a_sentence(groups, tmp_path, capsys):
    text = said(capsys, *groups)
    assert "test/return_mean on CartPole-v1" in text
    found = re.search(r"With 5 seeds each, PPO's IQM is higher than A2C's by 20\.0 \[(\S+), (\S+)\]", text)
    assert found
    assert float(found[1]) < 20 < float(found[2])
    assert re.search(r"This is not enough to call one better \(permutation test, p = 0\.\d+\)\. Were", text)
    assert re.search(r"about \d+ seeds each would be enough in 8 of 10 comparisons", text)
    assert "Bootstrap intervals of fewer than 10 seeds are too narrow" in text
    assert "--output=comparison-a2c-ppo" in text
    high = write_group(tmp_path / "high", [80.0, 81.0, 82.0, 83.0])
    text = said(capsys, groups[0], f"best={high}")
    assert "With 4 and 5 seeds, best's IQM is higher than A2C's" in text
    assert "This is enough to call best better" in text


def test_equal_sides_are_called_so_and_names_may_have_brackets(tmp_path, capsys):
    one, two = (write_group(tmp_path / f"[a],{runs}=b", [0.1] * runs) for runs in (3, 7))
    text = said(capsys, str(one), str(two))
    assert "have the same IQM: nothing says that one is better" in text
    assert "[a],3=b" in text


def test_the_order_of_runs_changes_nothing(groups, capsys):
    folders = sorted(map(str, Path(groups[0]).glob("*")))
    one, two = (said(capsys, f"A={','.join(its)}", groups[1]) for its in (folders, folders[::-1]))
    assert one == two


def test_few_seeds_are_shown_and_nothing_is_concluded(groups, tmp_path, capsys):
    one = write_run(tmp_path / "one", 90.0)
    text = said(capsys, groups[0], f"one={one}")
    assert "No intervals of one: there is a task with one run alone" in text
    assert "No result of so few seeds could be" in text
    assert "cannot be said: one run alone shows no spread" in text
    assert "│ one │ 1 │ 90.0 │ 90.0 │ 90.0 │" in said(capsys, f"one={one}")
    three = write_group(tmp_path / "three", [90.0, 91.0, 92.0])
    other = write_group(tmp_path / "other", [1.0, 2.0, 3.0])
    text = said(capsys, str(three), str(other))
    assert "This is not enough to call one better (permutation test, p = 0.1)" in text
    assert "No result of so few seeds could be. Were" in text
    assert "about 5 seeds" in text


@pytest.mark.parametrize(("runs", "others"), [(3, 3), (3, 4), (4, 4), (4, 5), (5, 5), (2, 8), (8, 3)])
def test_that_no_result_could_be_enough_is_said_where_the_clearest_one_is_not(runs, others, tmp_path, capsys):
    high = write_group(tmp_path / "high", [90.0 + 4.0 * run for run in range(runs)])
    low = write_group(tmp_path / "low", [1.0 + run for run in range(others)])
    text = said(capsys, str(high), str(low))
    assert ("No result of so few seeds could be" in text) == ("This is not enough" in text)
    assert ("This is not enough" in text) == ((runs, others) in [(3, 3), (4, 4)])


def test_curves_keep_the_last_evaluation_and_end_with_the_first_run(tmp_path):
    folder = write_group(tmp_path / "runs", [2.0, 6.0])
    other = folder / "seed-1/metrics.csv"
    other.write_text(f"{HEAD}\n200,200,,50.0,1.0,\n200,200,,,,10.0\n400,400,,,,30.0\n400,400,6.0,,,\n")
    sides = sides_of([str(folder)], TEST)
    tasks = common_tasks(sides)
    [result] = scopes_of(sides, tasks, scales_of(None, sides, tasks))[0].results
    curve = result.curves[STEPS]
    assert curve.moments.tolist() == [200, 300]
    assert curve.values.tolist() == [(1 + 10) / 2, (7.5 + 10) / 2]
    assert (curve.low.tolist(), curve.high.tolist()) == ([1, 7.5], [10, 10])
    # by then 2 s and another of 100 steps a second have passed in one, 4 s in the other, which notes no more
    assert result.curves[SECONDS].moments.tolist() == [(3 + 4) / 2, (4 + 4) / 2]


def test_training_time_leaves_out_the_steps_before_the_first_batch(tmp_path):
    run = write_run(tmp_path / "run", 1.0)
    rows = ["1100,1100,,100.0,1.0,", "1200,1200,,50.0,1.0,", "1300,1300,,,,2.0", "1300,1300,,100.0,1.0,"]
    (run / "metrics.csv").write_text("\n".join([HEAD, *rows, "1300,1300,1.0,,,", ""]))
    [side] = sides_of([str(run)], TEST)
    assert side.runs[0].seconds.tolist() == [1 + 2 + 1]


def test_scores_of_several_tasks_are_normalized_and_each_task_stands_by_itself(tmp_path, capsys):
    paths = {}
    for learner, low in (("a2c", 0.0), ("ppo", 5.0)):
        one = write_group(tmp_path / learner / "cartpole", [low + 10, low + 20], learner=learner)
        two = write_group(tmp_path / learner / "acrobot", [-100.0, -50.0 - low], learner=learner, env_id="Acrobot-v1")
        paths[learner] = f"{one},{two}"
    text = said(capsys, f"A={paths['a2c']}", f"P={paths['ppo']}")
    assert "test/return_mean on 2 tasks, normalized" in text
    assert "test/return_mean on Acrobot-v1" in text
    assert "Scores are normalized: in each task 0 is the lowest" in text
    assert "Ranges: Acrobot-v1 -100 to 7.5, CartPole-v1 5 to 25" in text
    scales = tmp_path / "scales.yaml"
    scales.write_text("CartPole-v1: [0, 100]\nAcrobot-v1: [-500, 0]\n")
    text = said(capsys, f"A={paths['a2c']}", f"P={paths['ppo']}", f"--normalize={scales}")
    # of 0.1, 0.2, 0.8 and 0.9 the middle two; of 0.15, 0.25, 0.8 and 0.89
    assert "│ A │ 2 │ 0.500" in text
    assert "│ P │ 2 │ 0.525" in text
    scales.write_text("CartPole-v1: [0, 100]\n")
    assert "has no line for Acrobot-v1" in refusal(f"A={paths['a2c']}", f"--normalize={scales}")
    scales.write_text("CartPole-v1: [100, 0]\nAcrobot-v1: [-500, 0]\n")
    assert "cannot be normalized from 100 to 0" in refusal(f"A={paths['a2c']}", f"--normalize={scales}")
    scales.write_text("CartPole-v1: 100\n")
    assert "has a line for each task" in refusal(f"A={paths['a2c']}", f"--normalize={scales}")
    text = said(capsys, f"A={paths['a2c']}", f"P={paths['ppo'].split(',')[0]}")
    assert "Left out, since not every side has it: A's Acrobot-v1" in text
    assert "normalized" not in text


def test_runs_of_one_side_in_environments_that_differ_by_their_own_settings_are_of_different_tasks(tmp_path, capsys):
    for learner, better in (("a2c", 0.0), ("ppo", 1.0)):
        for game, score in (("Pong", -20.0), ("Breakout", 400.0)):
            group = write_group(tmp_path / learner / game, [score + better, score + 5], learner=learner)
            for config in group.glob("*/config.yaml"):
                settings = yaml.safe_load(config.read_text())
                settings["data"]["init_args"]["env_kwargs"] = {"game": game, "frames": 4}
                config.write_text(yaml.safe_dump(settings))
    a2c, ppo = (",".join(str(tmp_path / learner / game) for game in ("Pong", "Breakout")) for learner in ("a2c", "ppo"))
    text = said(capsys, f"A={a2c}", f"P={ppo}")
    assert "test/return_mean on 2 tasks, normalized" in text
    assert "test/return_mean on CartPole-v1 game=Pong" in text
    assert "Ranges: CartPole-v1 game=Breakout 7.5 to 405, CartPole-v1 game=Pong -20 to 7.5" in text
    assert "frames" not in text
    text = said(capsys, f"A={a2c}", f"P={tmp_path / 'ppo/Pong'}")
    assert "Left out, since not every side has it: A's CartPole-v1 game=Breakout." in text
    text = said(capsys, f"A={tmp_path / 'a2c/Breakout'}", f"P={tmp_path / 'ppo/Pong'}")
    assert "Runs on CartPole-v1 are not tested alike: they differ in data.env_kwargs.game." in text


def test_a_path_with_any_letter_in_its_name_may_be_named(groups, tmp_path, capsys):
    odd = write_group(tmp_path / "lr=0.1, a b", [1.0, 2.0])
    text = said(capsys, f"A={groups[0]}", f"lr=0.1={odd}")
    assert "A's IQM is higher than lr=0.1's" in text
    assert "a path of it is empty" in refusal("A=")
    assert "a path of it is empty" in refusal(f"A={groups[0]},", groups[1])


def test_rows_without_environment_steps_are_no_scores(groups, capsys):
    metrics = Path(groups[0]) / "seed-0/metrics.csv"
    metrics.write_text(metrics.read_text() + ",,3.0,,9.0,\n")
    assert "A2C │ 5 │ 26.7" in said(capsys, *groups)
    assert "A2C │ 5 │ 1.00" in said(capsys, *groups, "--metric=train/return")


def test_what_makes_sides_unlike_is_said(groups, tmp_path, capsys):
    mixed = write_group(tmp_path / "mixed", [20.0, 30.0])
    write_run(mixed / "seed-2", 30.0, 2, gae_lambda="0.7", test_episodes="5")
    text = (mixed / "seed-2/metrics.csv").read_text()
    (mixed / "seed-2/metrics.csv").write_text(text.replace("300.0,300,30.0", "600.0,600,30.0"))
    config = mixed / "seed-1/config.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["trainer"]["logger"] = {"class_path": "WandbLogger", "init_args": {"id": "its own"}}
    config.write_text(yaml.safe_dump(settings))
    text = said(capsys, groups[0], str(mixed))
    assert "Runs of PPO on one task differ in more than the seed: data.test_episodes, model.gae_lambda." in text
    assert "Runs on CartPole-v1 are not tested alike: they differ in data.test_episodes" in text
    assert "not of the same environment steps: A2C 300, PPO 300 to 600" in text
    text = said(capsys, *groups, f"third={write_group(tmp_path / 'third', [1.0, 2.0])}")
    assert "p values are of all pairs together (Holm)" in text


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="the extra report")
def test_the_page_and_the_numbers_are_written_once(groups, tmp_path, capsys, monkeypatch):
    output = tmp_path / "out"
    said(capsys, *groups, f"--output={output}")
    page = (output / "comparison.html").read_text()
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "test/return_mean on CartPole-v1",
        "Settings that differ",
        "Runs",
        "How it is measured",
    ]
    assert re.findall(r"<figcaption><b>(.*?)</b>", page) == [
        "scores",
        "IQM over environment steps",
        "IQM over training time in seconds",
        "performance profile",
        "probability of improvement",
    ]
    assert re.findall(r'(?:src|href)="(?!#|data:)(.*?)"|url\((?!#)(.*?)\)|@import', page) == []
    assert "With 5 seeds each, PPO&#x27;s IQM is higher" in page
    assert "<code>model.gae_lambda</code></td><td><code>1.0</code></td><td><code>0.8</code>" in page
    assert "var(--side-1)" in page
    for name in ("scores", "curves", "profiles", "improvement"):
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    runs = [*csv.DictReader((output / "runs.csv").open())]
    assert [float(run["score"]) for run in runs] == [10, 20, 30, 30, 40, 20, 40, 50, 50, 60]
    assert runs[0] | {"folder": ""} == {
        "side": "A2C",
        "task": "CartPole-v1",
        "seed": "0",
        "folder": "",
        "score": "10.0",
        "env_steps": "300",
        "training_seconds": "4.000",
    }
    curves = [*csv.DictReader((output / "curves.csv").open())]
    assert [row["value"] for row in curves if (row["side"], row["axis"]) == ("PPO", STEPS)][1] == "7.5"
    assert "it exists; give another, or --overwrite" in refusal(*groups, f"--output={output}")
    monkeypatch.setattr("rl_lightning.cli.several.compare.command.png", lambda draws: b"new")
    monkeypatch.setattr("rl_lightning.cli.several.compare.command.page", lambda *_: "new")
    said(capsys, *groups, f"--output={output}", "--overwrite")
    assert (output / "comparison.html").read_text() == (output / "scores.png").read_text() == "new"
    assert (output / "improvement.png").is_file()
    said(capsys, groups[0], f"--output={output}", "--overwrite")
    assert not (output / "improvement.png").exists()  # of one side there is none
    assert "it exists" in refusal(*groups, f"--output={groups[0]}", "--overwrite")  # no comparison


def test_what_cannot_be_compared_is_refused_in_one_line(groups, tmp_path, capsys):
    a2c, ppo = groups
    assert "is no folder" in refusal(str(tmp_path / "none"))
    assert f"there are some in {a2c}, {ppo}: give one of these" in refusal(str(tmp_path))
    unfinished = write_run(Path(ppo) / "seed-9", None, 9)
    assert "1 of 6 runs" in (line := refusal(a2c, ppo))
    assert f"are without a final test, {unfinished}: finish them" in line
    assert "--metric=val/return_mean takes the last evaluation" in line
    assert "│ PPO │ 6 │ 7.50 [7.50, 7.50] │" in said(capsys, a2c, ppo, "--metric=val/return_mean")
    gone_on = (unfinished / "metrics.csv").read_text().replace("300,300,,,,7.5", "300,300,9.0,,,\n600,600,,,,7.5")
    (unfinished / "metrics.csv").write_text(gone_on)
    assert "are without a final test" in refusal(a2c, ppo)
    (unfinished / "metrics.csv").write_text(f"{HEAD}\n300,300,nan,,,\n")
    assert "ends with test/return_mean=nan" in refusal(a2c, ppo)
    assert "runs of" in refusal(a2c, "--metric=test/nothing")
    acrobot = write_group(tmp_path / "acrobot", [1.0, 2.0], env_id="Acrobot-v1")
    assert "the sides have no task in common, A2C CartPole-v1, PPO Acrobot-v1" in refusal(a2c, str(acrobot))
    assert "is given twice, for A and B" in refusal(f"A={a2c}", f"B={a2c}")
    assert "'A' names 2 sides" in refusal(f"A={a2c}", f"A={acrobot}")
    again = write_run(tmp_path / "again", 3.0, learner="a2c")
    assert "has seed 0 twice on CartPole-v1" in refusal(f"A={a2c},{again}")
    assert "overwrite=True is not allowed" in refusal(a2c, "--overwrite")
    assert "the file cannot be read" in refusal(a2c, "--normalize=none.yaml")
