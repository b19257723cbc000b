"""What the benchmark of fine-tuning makes of its runs."""

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks.fine_tuning import TASKS, StopAtTarget, report, steps_to


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ([-300, -240, -260, -250, -100], 1500.0),  # at 500 it does not stay
        ([-250, -250], 0.0),
        ([-300, -200], None),
        ([], None),
    ],
)
def test_the_target_is_reached_at_the_first_of_two_evaluations_in_succession(returns, expected):
    curve = [(500.0 * index, float(value)) for index, value in enumerate(returns)]
    assert steps_to(curve, -250.0) == expected


def test_a_run_stops_at_the_second_evaluation_in_succession():
    trainer, stop, stopped = SimpleNamespace(should_stop=False), StopAtTarget(-250.0), []
    for value in (-240.0, -260.0, -250.0, -249.0):
        trainer.callback_metrics = {"val/return_mean": torch.tensor(value)}
        stop.on_validation_end(trainer, None)
        stopped.append(trainer.should_stop)
    assert stopped == [False, False, False, True]


def test_the_report_has_a_row_for_each_seed_and_counts_what_never_got_there_as_longest(tmp_path):
    def note(name, seed, reached_at, first=-400.0):
        run = {"seed": seed, "run": name, "reached_at": reached_at, "curve": [[0.0, first]], "budget": 10_000}
        (tmp_path / f"{name}-{seed}.json").write_text(json.dumps(run | {"commit": "abc"}))

    note("fine-tuned", 0, 0.0)
    note("fine-tuned", 1, 2000.0, first=-512.4)
    note("scratch", 0, None)
    note("scratch", 1, 6000.0)
    note("scratch", 2, None)
    text = report(TASKS["pendulum"], tmp_path)
    assert "| 0 | -400 | 0 | not within 10,000 |" in text
    assert "| 1 | -512 | 2,000 | 6,000 |" in text
    assert "| 2 | not run | not run | not within 10,000 |" in text
    assert text.endswith("Median steps: fine-tuned 1,000 (of 2 seeds); scratch not within 10,000 (of 3 seeds).")
