import gc
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from toys import CounterEnv
from website import serve


def pytest_configure(config):
    """Deprecated calls of our own modules, these tests and what they share among them, are errors.

    No run chooses a library by the clock: many are compared to the last bit.
    """
    os.environ["RL_LIGHTNING_PRODUCTS"] = "torch"
    gc.disable()  # until everything is imported, of which nothing is ever collected
    ours = "|".join(["rl_lightning", "benchmarks", *(path.stem for path in Path(__file__).parent.rglob("*.py"))])
    for kind in ["DeprecationWarning", "PendingDeprecationWarning", "FutureWarning"]:
        config.addinivalue_line("filterwarnings", rf"error::{kind}:({ours})\b")


def pytest_collection_finish():
    """Let the collector look at what tests make only, imports are most of the objects; and torch have one thread.

    Networks are tiny, and torch hangs in a fork of a process in which it has several. Importing quantecon sets several.
    """
    gc.freeze()
    gc.enable()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what is in its background without it


@pytest.fixture(autouse=True)
def _fresh_start():
    torch.manual_seed(0)
    CounterEnv.made.clear()
    yield
    if "wandb" in sys.modules:  # a run that a test leaves open would be that of the next one's command
        sys.modules["wandb"].finish()


@pytest.fixture
def website(tmp_path_factory, monkeypatch):
    """A `Website`; what is downloaded from it goes into a folder of the test too."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("downloads")))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(tmp_path_factory.mktemp("website")) as website:
        yield website
