import math

import pytest

from rl_lightning import UsageError
from rl_lightning.schedules import scheduled


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
