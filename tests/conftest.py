import pytest
import torch
from toys import CounterEnv

torch.set_num_threads(1)  # tiny networks; more threads only get in each other's way


@pytest.fixture(autouse=True)
def _fresh_start():
    torch.manual_seed(0)
    CounterEnv.made.clear()
