import os

import pytest
import torch

from rl_lightning.fast import switch

# to try the tests themselves where there is no GPU: with cpu each compares the CPU with itself
DEVICE = torch.device(os.environ.get("RL_LIGHTNING_GPU_TESTS_ON", "cuda"))


@pytest.fixture
def device(monkeypatch):
    """Where these tests run; float32 is float32 there, in convolutions too."""
    if DEVICE.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return DEVICE


@pytest.fixture
def cuda_graphs(monkeypatch):
    """Turns CUDA graphs on or off."""

    def turn(on):
        monkeypatch.setenv(switch.OF_CUDA_GRAPHS, str(int(on)))
        switch.has_cuda_graphs.cache_clear()

    yield turn
    switch.has_cuda_graphs.cache_clear()
