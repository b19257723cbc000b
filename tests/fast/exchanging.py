"""One of several processes that exchange numbers, brought together by a file.

python exchanging.py RANK PROCESSES FILE CASE
"""

import os
import sys
import time

import torch
import torch.distributed as dist

from rl_lightning.fast import exchange

rank, processes, file, case = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=processes)
if case == "unreachable" and rank == 1:
    exchange._connected = lambda place: None
mean = exchange.mean_of_processes(torch.device("cpu"), 2 if case == "machines" else 1)
by_torch = mean is exchange.mean_by_torch
assert by_torch == (case in ("unreachable", "machines"))
if case == "ends" and rank == 1:
    os._exit(0)  # at once: torch's threads abort a process that is still ending when the others have gone
if case == "differs":
    mean([torch.ones(3 + rank)])
if rank == 1 and not by_torch:  # others write already what comes next
    meet_now = exchange.MeanOnOneMachine._meet
    exchange.MeanOnOneMachine._meet = lambda *arguments: (meet_now(*arguments), time.sleep(0.02))
for size in (3, 10, 100_000, 1, 300_000):  # the memory grows twice
    for dtype in (torch.float32, torch.float64):
        parts = [torch.randn(size, dtype=dtype, generator=torch.Generator().manual_seed(r)) for r in range(processes)]
        expected = parts[0].clone()
        for part in parts[1:]:
            expected += part
        expected /= processes
        found = mean([parts[rank][:1], parts[rank][1:]])
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
