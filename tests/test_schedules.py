import math

import pytest

from rl_lightning import UsageError
from rl_lightning.schedules import Clock, check_schedule, scheduled


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [3.0, 3.0, 3.0, 3.0, 3.0, 3.0]),
        ("linear", [3.0, 2.5, 2.0, 1.0, 1.0, 1.0]),
        # 1 + 2 · ½ (1 + cos(π p))
        ("cosine", [3.0, 2.0 + math.sqrt(0.5), 2.0, 1.0, 1.0, 1.0]),
    ],
)
def test_a_setting_goes_from_start_to_end_and_stays_there(schedule, expected):
    actual = [scheduled(schedule, 3.0, 1.0, progress) for progress in (0.0, 0.25, 0.5, 1.0, 1.2, 100.0)]
    assert actual == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_setting_may_also_grow_and_end_at_zero(schedule):
    assert [scheduled(schedule, -1.0, 5.0, progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([-1.0, 2.0, 5.0])
    assert scheduled(schedule, 2e-4, 0.0, 1.0) == 0.0


@pytest.mark.parametrize("schedule", ["exponential", "Linear", ""])
def test_an_unknown_schedule_is_refused_with_those_there_are(schedule):
    with pytest.raises(
        UsageError, match=f"^schedule='{schedule}' is not allowed: .*constant.*linear.*cosine"
    ) as caught:
        scheduled(schedule, 1.0, 0.0, 0.5)
    assert "\n" not in str(caught.value)


# The clock


def test_a_clock_starts_at_zero_and_its_progress_is_the_share_of_the_run_that_is_done():
    clock, seen = Clock(200), []
    for env_steps in (0, 1, 50, 150, 200):
        clock.env_steps = env_steps
        seen.append(clock.progress)
    assert Clock(200).env_steps == 0
    assert seen == [0.0, 0.005, 0.25, 0.75, 1.0]


def test_progress_stays_at_one_after_the_end():
    clock = Clock(200)
    clock.env_steps = 207  # an iteration does not always end with the run
    assert clock.progress == 1.0


def test_a_clock_of_no_run_is_at_its_end():
    assert Clock(0).progress == 1.0


@pytest.mark.parametrize("schedule", ["exponential", "Linear", ""])
def test_an_unknown_schedule_is_refused_by_the_setting_it_was_given_for(schedule):
    with pytest.raises(UsageError, match=f"^noise.schedule='{schedule}' is not allowed: give one of .*linear"):
        check_schedule("noise.schedule", schedule)
    for known in ("constant", "linear", "cosine"):
        check_schedule("noise.schedule", known)
