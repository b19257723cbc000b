import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

from benchmarks import on_policy, peers, throughput


def test_the_rate_counts_from_the_first_mark_after_the_warmup():
    marks = [(100, 0.0), (200, 10.0), (300, 11.0), (500, 13.0)]
    assert throughput.rate(marks, warmup=150) == pytest.approx((500 - 200) / (13.0 - 10.0))


@pytest.mark.parametrize("run", [on_policy.run_ours, on_policy.run_sb3])
def test_both_libraries_run_and_report_their_speed(run, monkeypatch):
    task = on_policy.Task("CartPole-v1", 8, 5, 40, warmup=80, steps=160)
    monkeypatch.setitem(on_policy.TASKS, "a2c-cartpole", task)
    marks = run("a2c-cartpole")
    assert [steps for steps, _ in marks if steps >= 80] == list(range(80, 241, 40))
    assert throughput.rate(marks, task.warmup) > 0


def test_a_peer_is_trained_and_evaluated_on_our_episodes(monkeypatch):
    monkeypatch.setitem(peers.PEERS, "ppo/pendulum", peers.PEERS["ppo/pendulum"]._replace(total_env_steps=10))
    monkeypatch.setattr(peers, "TEST_EPISODES", 2)
    result = peers.train("ppo/pendulum", seed=3)
    assert result["seed"] == 3
    assert -2000 < result["mean"] < 0
