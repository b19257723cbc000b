"""The random numbers of a process: torch's, NumPy's and Python's generators, as data."""

import random

import numpy as np
import torch

from rl_lightning.types import State


def random_numbers() -> State:
    """The state of this process's generators, tensors and numbers alone."""
    version, words, gauss = random.getstate()
    _, key, position, has_gauss, cached = np.random.get_state()
    state: State = {
        "cpu": torch.get_rng_state(),
        "numpy": {
            "key": torch.from_numpy(np.asarray(key, dtype=np.int64)),
            "rest": [position, has_gauss, cached],
        },
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
    }
    # asking a GPU that nothing has used yet would take memory of it
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return state | ({"cuda": torch.cuda.get_rng_state()} if used else {})


def set_random_numbers(state: State) -> None:
    """Let this process draw on from a saved state; generators that it lacks stay as they are."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    if "numpy" in state:
        key = state["numpy"]["key"].numpy().astype(np.uint32)
        np.random.set_state(("MT19937", key, *state["numpy"]["rest"]))
    if "python" in state:
        python = state["python"]
        random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
