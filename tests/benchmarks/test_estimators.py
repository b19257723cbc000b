"""The command that draws estimators against batch size and critic, made small; and HalfCheetah's nested samples."""

import pytest
import torch

from benchmarks import estimators


def test_the_command_measures_every_estimator_and_draws_both_pictures(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(estimators, "ERRORS", [0.0, 1.0])
    monkeypatch.setattr(estimators, "BATCHES", [1, 4])
    estimators.main(["--output", str(tmp_path), "--samples", "256", "--fit-steps", "1"])
    printed = capsys.readouterr().out
    for line in [*estimators.CONTINUOUS, *estimators.DISCRETE]:
        assert f"| {line.label} |" in printed
    for name in ["estimators_batch_size.png", "estimators_critic.png"]:
        assert 10_000 < (tmp_path / name).stat().st_size < 200_000


def test_errors_of_batches_fall_as_their_size_does_down_to_the_bias():
    problem = estimators.control("bandit", 1)
    torch.manual_seed(0)
    batch = problem.samples(50_000)
    by_label = {line.label: line for line in estimators.CONTINUOUS}
    unbiased = estimators.measure(by_label["q_prop"], problem, batch, 0.5)
    assert unbiased.bias < 4.0 * unbiased.noise
    for size, error in zip(estimators.BATCHES[:5], unbiased.errors, strict=False):
        assert error == pytest.approx(unbiased.variance / size, rel=0.3)
    biased = estimators.measure(by_label["deterministic"], problem, batch, 0.5)
    assert biased.bias > 10.0 * biased.noise
    assert biased.errors[-1] == pytest.approx(biased.bias**2 + biased.variance / 4096, rel=0.2)


def test_halfcheetah_is_put_back_to_where_it_was(monkeypatch):
    pytest.importorskip("mujoco")
    from benchmarks import nested_halfcheetah as nested

    monkeypatch.setattr(nested, "EPISODE", 6)
    copies = nested.Cheetahs(2)
    obs = copies.reset(0)
    place = copies.places()[1]
    action = 0.3 * torch.ones(2, 6)
    first = copies.step(action)
    copies.put(place)
    again = copies.step(action)
    assert not torch.equal(obs[0], obs[1])
    assert torch.equal(first[0][1], again[0][1])
    assert torch.equal(again[0][0], again[0][1])
    assert first[1][1] == again[1][0]
