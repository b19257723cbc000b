import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("ale_py")

import torch

from benchmarks.gpu import main, table, union


def test_time_at_work_counts_what_overlaps_once():
    assert union([(5.0, 7.0), (0.0, 2.0), (1.0, 3.0), (1.5, 2.5), (7.0, 8.0)]) == 6.0
    assert union([]) == 0.0


def test_the_table_has_ratios_to_the_peer_shares_memory_and_errors():
    found = {"steps_per_second": 300.0, "gpu_busy_share": 0.256, "peak_bytes": 3 * 2**20}
    peer = {"steps_per_second": 200.0, "gpu_busy_share": None, "peak_bytes": None}
    rows = table({"td3": {"sb3": peer, "compiled": found, "eager": {"error": "out of memory"}}}).splitlines()[2:]
    assert rows == [
        "| td3 | sb3 | 200 | 1.00 |  |  |",
        "| td3 | compiled | 300 | 1.50 | 26 % | 3 MiB |",
        "| td3 | eager | out of memory |  |  |  |",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so_in_one_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpu"])
    with pytest.raises(SystemExit, match=r"^benchmarks\.gpu: --device=cuda is not allowed: there is no CUDA device; "):
        main()
