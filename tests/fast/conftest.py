from contextlib import contextmanager

import pytest

from rl_lightning.fast import switch


@pytest.fixture
def plain_ways():
    """A context in which RL_LIGHTNING_FAST is 0."""

    @contextmanager
    def context():
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv(switch.VARIABLE, "0")
            switch.is_on.cache_clear()
            yield
        switch.is_on.cache_clear()

    yield context
    switch.is_on.cache_clear()  # also after an error inside


@pytest.fixture(params=["fast", "plain"])
def either_way(request, plain_ways):
    """Both ways in turn."""
    if request.param == "fast":
        yield
    else:
        with plain_ways():
            yield
