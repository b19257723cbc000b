import torch

from rl_lightning.exact.krylov import SHORTEST_ROUND, solve_fixed_point


def test_a_round_is_not_worse_than_plain_iterations_in_the_norm_that_is_asked_for():
    gamma, loops, ring = 0.99, 5000, 200  # GMRES makes the many states exact, and the few of the ring worse
    columns = torch.cat([torch.arange(loops), loops + (torch.arange(ring) + 1) % ring])
    index = torch.stack([torch.arange(loops + ring), columns])
    values = torch.full((loops + ring,), gamma, dtype=torch.float64)
    m = torch.sparse_coo_tensor(index, values, check_invariants=True)
    b = torch.cat([torch.ones(loops), torch.eye(ring)[0]]).double()
    x, rounds = solve_fixed_point(m, b, torch.zeros_like(b), tolerance=1.0001 * gamma**SHORTEST_ROUND)
    assert rounds == 1
    assert (b + m @ x - x).abs().max() <= 1.0001 * gamma**SHORTEST_ROUND
