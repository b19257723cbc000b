"""Exact solutions of a large random MDP, beside quantecon's DiscreteDP.

A Garnet of 10,000 states with 10 actions of 10 successors each, γ = 0.99, sparse, on one thread, to 1e-8 in the sup
norm of the true values. Ours certifies that by the Bellman residual; all are compared with ours solved to 1e-11. Each
measurement is a fresh process; making the problem and a warm-up on a small one (quantecon compiles) are left out of the
time, which is the processor's, so that what else a machine does matters little. Memory is what the process grows by at
its highest, from before the problem is made.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.report import describe_machine, markdown_table, publish, run_fresh, summarize
from rl_lightning.exact import MDP, soft_policy_iteration, soft_value_iteration

GAMMA, TOLERANCE = 0.99, 1e-8
METHODS: dict[str, tuple[str, str]] = {  # by name: whose, and what it does
    "policy": ("ours", "policy iteration, α = 0"),
    "value": ("ours", "value iteration, α = 0"),
    "soft-policy": ("ours", "soft policy iteration, α = 0.1"),
    "soft-value": ("ours", "soft value iteration, α = 0.1"),
    "policy_iteration": ("quantecon", "policy iteration"),
    "modified_policy_iteration": ("quantecon", "modified policy iteration"),
    "value_iteration": ("quantecon", "value iteration"),
}


def ours(method: str, mdp: MDP) -> Callable[[], np.ndarray]:
    """Solves it: V, [S]."""
    solve = soft_policy_iteration if method.endswith("policy") else soft_value_iteration
    ent_coef = 0.1 if method.startswith("soft") else 0.0
    return lambda: solve(mdp, ent_coef, tolerance=TOLERANCE).v.numpy()


def theirs(method: str, mdp: MDP) -> Callable[[], np.ndarray]:
    """The same in quantecon's form: state-action pairs with a scipy matrix."""
    from quantecon.markov import DiscreteDP
    from scipy.sparse import csr_matrix

    states, actions = mdp.reward.shape
    rows = mdp.transition
    parts = rows.values().numpy(), rows.col_indices().numpy(), rows.crow_indices().numpy()
    state, action = np.divmod(np.arange(states * actions), actions)
    problem = DiscreteDP(mdp.reward.flatten().numpy(), csr_matrix(parts, rows.shape), mdp.gamma, state, action)
    return lambda: np.asarray(problem.solve(method=method, epsilon=TOLERANCE, max_iter=100_000).v)


def measure(method: str, states: int) -> dict[str, float]:
    """Seconds of the processor, growth of memory in MiB, and the largest error of V."""
    make = ours if METHODS[method][0] == "ours" else theirs
    make(method, MDP.garnet(50, 3, 5, GAMMA, seed=1, sparse=True))()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mdp = MDP.garnet(states, 10, 10, GAMMA, seed=0, sparse=True)
    solve = make(method, mdp)
    start = time.process_time()
    v = solve()
    seconds = time.process_time() - start
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    truth = soft_policy_iteration(mdp, 0.1 if method.startswith("soft") else 0.0, tolerance=1e-11).v.numpy()
    return {"seconds": seconds, "mib": growth, "error": float(np.abs(v - truth).max())}


def main() -> None:
    """Measure every method, in turn, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--states", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="also write the report to this file")
    parser.add_argument("--once", action="store_true", help="just the first method, in this process")
    arguments = parser.parse_args()
    if arguments.once:
        torch.set_num_threads(1)
        print(json.dumps(measure(arguments.methods[0], arguments.states)))
        return
    found: dict[str, list[dict[str, float]]] = {method: [] for method in arguments.methods}
    jobs = [method for _ in range(arguments.repeats) for method in arguments.methods]
    for method in tqdm(jobs, unit="run"):
        options = [f"--methods={method}", f"--states={arguments.states}", "--once"]
        found[method].append(run_fresh("benchmarks.exact", options, threads=1))
    rows = [
        (
            *METHODS[method],
            summarize([run["seconds"] for run in runs]),
            f"{max(run['mib'] for run in runs):.0f}",
            f"{max(run['error'] for run in runs):.1e}",
        )
        for method, runs in found.items()
    ]
    header = ["library", "method", "CPU seconds, median [min, max]", "memory, MiB", "largest error of V"]
    title = f"# {arguments.states} states x 10 actions x 10 successors, γ = {GAMMA}, {arguments.repeats} runs"
    publish("\n\n".join([title, describe_machine(), markdown_table(header, rows)]), arguments.output)


if __name__ == "__main__":
    main()
