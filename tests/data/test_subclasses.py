"""DataModules of a user's own, made from those of the library."""

import pytest
from toys import counter_data, fit, tiny_sac

from rl_lightning import ReplayDataModule, RolloutDataModule, RolloutReplayDataModule, UsageError


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (ReplayDataModule, "state_dict"),
        (ReplayDataModule, "load_state_dict"),
        (ReplayDataModule, "setup"),
        (RolloutReplayDataModule, "state_dict"),
        (RolloutReplayDataModule, "attach"),
        (RolloutDataModule, "teardown"),
    ],
)
def test_a_method_that_leaves_out_what_a_datamodule_does_in_it_is_refused_by_name(kind, method):
    mine = type("Mine", (kind,), {method: lambda self, *_: {}})
    with pytest.raises(UsageError, match=rf"^Mine\.{method} takes the place of .*: call super\(\)\.{method} in it"):
        mine("toys:Counter-v0")
    with pytest.raises(UsageError, match=rf"^Mine\.{method} takes the place of"):
        type("Theirs", (mine,), {})("toys:Counter-v0")


def test_a_datamodule_that_saves_something_beside_the_buffer_resumes_with_both():
    class Labelled(ReplayDataModule):
        label = 0

        def state_dict(self):
            return {"label": self.label, **super().state_dict()}

        def load_state_dict(self, state_dict):
            self.label = state_dict["label"]
            super().load_state_dict(state_dict)

    first = counter_data(total_env_steps=50)
    fit(tiny_sac(first.observation_space, first.action_space), first)
    one, same = (Labelled("toys:Counter-v0", total_env_steps=50, learning_starts=10, batch_size=4) for _ in range(2))
    one.setup("fit")
    one.load_state_dict({"label": 7, **first.state_dict()})
    same.setup("fit")
    same.load_state_dict(one.state_dict())
    assert same.label == 7
    assert len(same.buffer) == len(first.buffer) > 0
