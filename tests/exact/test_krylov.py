import torch

from rl_lightning.exact import MDP
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


def test_a_random_mdp_takes_a_tenth_of_the_products_of_plain_iterations():
    mdp = MDP.garnet(500, 1, 5, gamma=0.99, seed=0, sparse=True)
    m, b = mdp.gamma * mdp.transition, mdp.reward[:, 0]
    x, rounds = solve_fixed_point(m, b, torch.zeros_like(b), tolerance=1e-9)
    exact = torch.linalg.solve(torch.eye(500, dtype=torch.float64) - m.to_dense(), b)
    torch.testing.assert_close(x, exact, rtol=0, atol=1e-7)
    assert rounds <= 5  # of 20 products; plain iterations take 2,000


def test_the_residual_is_within_the_tolerance_in_the_norm_that_is_asked_for():
    mdp = MDP.garnet(500, 1, 5, gamma=0.99, seed=0, sparse=True)
    m, b = mdp.gamma * mdp.transition, mdp.reward[:, 0]
    for tolerance in torch.logspace(1, -6, 50).tolist():
        x, _ = solve_fixed_point(m, b, torch.zeros_like(b), tolerance, order=1)
        assert (b + m @ x - x).abs().sum() <= tolerance


def test_rounds_that_gain_little_become_longer():
    states, gamma = 500, 0.999
    index = torch.stack([torch.arange(states), (torch.arange(states) + 1) % states])  # a ring
    m = torch.sparse_coo_tensor(index, torch.full((states,), gamma, dtype=torch.float64), check_invariants=True)
    b = torch.eye(states, dtype=torch.float64)[0]
    x, rounds = solve_fixed_point(m, b, torch.zeros_like(b), tolerance=1e-6)
    assert (b + m @ x - x).abs().max() <= 1e-6
    assert rounds < 100  # 482 of the shortest kind
