"""The summary of the learners on the bridge: curves, ratios and table by hand, and the learners that are compared."""

import json

import pytest

from benchmarks import bridge
from rl_lightning import DDPG, PPO, TRPO

NAME = "train/gradient_variance_ratio"


def one(seed, test, ratios=()):
    return {
        "env": "Hopper-v5",
        "learner": "Q-Prop",
        "seed": seed,
        "curve": {"2048": 10.0, "4096": 30.0},
        "test": test,
        "variances": {str(2048 * (i + 1)): {"train/gradient_variance": 1.0, NAME: x} for i, x in enumerate(ratios)},
        "seconds": 7.0,
        "commit": "abc",
    }


def test_a_curve_is_the_mean_between_its_points_and_the_latest_where_nothing_was_noted():
    curve = {"10": 1.0, "20": 3.0, "30": 8.0}
    assert bridge.binned(curve, [20, 30, 40]) == [2.0, 8.0, 8.0]
    assert bridge.binned({"30": 8.0}, [20, 40]) == [8.0, 8.0]


def test_the_variance_ratio_is_a_median_over_rollouts_and_seeds():
    assert bridge.variance_ratio([one(0, 1.0, [0.5, 1.0]), one(1, 1.0, [1.5, 2.0, 3.0])]) == "1.50 [0.75, 2.50]"
    assert bridge.variance_ratio([one(0, 1.0)]) == ""


def test_the_table_has_every_seed_their_mean_and_their_spread(tmp_path):
    folder = tmp_path / "Hopper-v5" / "Q-Prop"
    folder.mkdir(parents=True)
    for seed, test in ((0, 100.0), (10, 300.0), (2, 200.0)):
        (folder / f"{seed}.json").write_text(json.dumps(one(seed, test, [0.5, 0.5])))
    runs = bridge.read(tmp_path)
    assert [run["seed"] for run in runs["Hopper-v5", "Q-Prop"]] == [0, 2, 10]
    assert "| Hopper-v5 | Q-Prop | 200 ± 82 | 100, 200, 300 | 0.50 [0.50, 0.50] | 7 |" in bridge.table(runs)


@pytest.mark.parametrize("learner", bridge.LEARNERS)
def test_learners_differ_in_the_estimator_alone(learner):
    pytest.importorskip("mujoco")
    model, data = bridge.make("InvertedPendulum-v5", learner)
    assert type(model) is {"PPO": PPO, "DDPG": DDPG}.get(learner, TRPO)
    assert data.total_env_steps == bridge.ENV_STEPS["InvertedPendulum-v5"]
    if learner in bridge.ON_TRPO:
        plain, _ = bridge.make("InvertedPendulum-v5", "TRPO")
        settings = ("gamma", "gae_lambda", "target_kl", "cg_max_steps", "n_critic_updates", "normalize_advantage")
        assert all(getattr(model, name) == getattr(plain, name) for name in settings)
        assert model.policy_gradient.critic is not None
