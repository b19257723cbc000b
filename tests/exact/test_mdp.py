import gymnasium as gym
import numpy as np
import pytest
import torch
from random_mdps import random_mdp, sparse_of

from rl_lightning import UsageError
from rl_lightning.exact import MDP, soft_policy_iteration

HALF = [[[0.5, 0.5], [0.0, 1.0]], [[1.0, 0.0], [0.25, 0.75]]]  # [S, A, S']
REWARD = [[1.0, 2.0], [3.0, 4.0]]


def test_lists_arrays_float32_and_tensors_make_the_same_mdp():
    for kind in (list, np.array, torch.tensor, lambda x: np.array(x, np.float32)):
        mdp = MDP(kind(HALF), kind(REWARD), 0.9)
        assert mdp.transition.dtype == mdp.reward.dtype == mdp.start.dtype == torch.float64
        assert mdp.transition.tolist() == HALF
        assert mdp.reward.tolist() == REWARD
        assert mdp.start.tolist() == [0.5, 0.5]
        assert not mdp.termination.any()


@pytest.mark.parametrize("sparse", [False, True])
def test_what_is_off_by_the_rounding_of_float32_is_made_exact(sparse):
    rows, start = torch.rand(50, 4, 51), torch.rand(50)
    rows, start = rows / rows.sum(-1, keepdim=True), start / start.sum() * (1 + 5e-7)
    transition, termination = rows[..., :50], rows[..., 50]
    given = transition.reshape(200, 50).to_sparse() if sparse else transition
    mdp = MDP(given, torch.zeros(50, 4), 0.9, termination, start)
    total = mdp.termination + mdp.expected_next(torch.ones(50, dtype=torch.float64))
    assert (total - 1).abs().max() < 1e-15
    assert abs(float(mdp.start.sum()) - 1) < 1e-15
    torch.testing.assert_close(mdp.termination, termination.double(), rtol=0, atol=1e-6)


def test_the_same_mdp_on_another_device_has_all_of_it():
    mdp = random_mdp(3, states=4, actions=2)
    mdp = MDP(mdp.transition, mdp.reward, 0.9, mdp.termination, torch.tensor([0.1, 0.2, 0.3, 0.4]))
    there = mdp.to("cpu")
    for name in ("transition", "reward", "termination", "start"):
        torch.testing.assert_close(getattr(there, name), getattr(mdp, name), rtol=0, atol=1e-15)
    assert mdp.termination.any()
    assert there.gamma == 0.9


def test_a_reward_of_the_next_state_is_reduced_by_its_expectation():
    by_next = torch.tensor([[[1.0, 3.0], [7.0, 5.0]], [[2.0, 9.0], [4.0, 8.0]]])
    assert MDP(HALF, by_next, 0.9).reward.tolist() == [[2.0, 5.0], [2.0, 7.0]]


def test_the_argument_is_copied_and_not_changed():
    transition, reward = torch.tensor(HALF, dtype=torch.float64), torch.tensor(REWARD, dtype=torch.float64)
    mdp = MDP(transition, reward, 0.9)
    transition[0, 0] = torch.tensor([1.0, 0.0])
    reward[0, 0] = -5.0
    assert mdp.transition.tolist() == HALF
    assert mdp.reward.tolist() == REWARD


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")  # the test makes one
def test_sparse_rows_are_those_of_state_and_action_in_any_layout():
    dense = random_mdp(3, states=4, actions=2)
    flat = dense.transition.reshape(8, 4)
    v = torch.randn(4, dtype=torch.float64)
    for sparse in (flat.to_sparse(), flat.to_sparse_csr(), flat.to_sparse_csc(), flat.float().to_sparse()):
        mdp = MDP(sparse, dense.reward, 0.9, dense.termination)
        assert mdp.sparse
        assert mdp.transition.dtype == torch.float64
        torch.testing.assert_close(mdp.expected_next(v), dense.expected_next(v), rtol=1e-6, atol=1e-7)


def test_entries_of_a_sparse_matrix_that_stand_twice_are_added():
    index = torch.tensor([[0, 0, 1, 2, 3], [0, 0, 1, 0, 1]])
    twice = torch.sparse_coo_tensor(index, torch.tensor([0.5, 0.5, 1.0, 1.0, 1.0]), (4, 2), check_invariants=True)
    assert MDP(twice, torch.zeros(2, 2), 0.9).expected_next(torch.tensor([3.0, 5.0]).double()).tolist() == [
        [3, 5],
        [3, 5],
    ]


def changed(table, place, value):
    table = torch.tensor(table, dtype=torch.float64)
    table[place] = value
    return table


def halves_sparse(value):
    index = torch.tensor([[0, 0, 1, 2, 3], [0, 1, 1, 0, 1]])
    values = torch.tensor([0.5, value, 1.0, 1.0, 1.0])
    return torch.sparse_coo_tensor(index, values, (4, 2), check_invariants=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((changed(HALF, (1, 0, 0), 0.9), REWARD, 0.9), r"transition\[1, 0\] \(state, action\) is 0.9: give 1 as"),
        ((changed(HALF, (0, 1, 0), -0.1), REWARD, 0.9), r"transition\[0, 1, 0\] .* is -0.1: give a probability"),
        ((changed(HALF, (0, 1, 1), torch.nan), REWARD, 0.9), r"transition\[0, 1, 1\] .* is nan: give a finite"),
        ((HALF, changed(REWARD, (1, 0), torch.nan), 0.9), r"reward\[1, 0\] \(state, action\) is nan: give a finite"),
        ((HALF, changed(REWARD, (1, 0), torch.inf), 0.9), r"reward\[1, 0\] .* is inf"),
        ((HALF, REWARD, 1.5), r"gamma=1.5 is not allowed"),
        ((HALF, REWARD, -0.1), r"gamma=-0.1 is not allowed"),
        ((HALF, REWARD, float("nan")), r"gamma=nan is not allowed"),
        ((HALF, REWARD, 1.0), r"gamma=1.0 is not allowed: from state 0 on, with action 0 there, an episode"),
        ((HALF, [1.0, 2.0], 0.9), r"reward.shape=\[2\] is not allowed: .*\[2, 2\]"),
        ((HALF, torch.zeros(2, 3), 0.9), r"reward.shape=\[2, 3\]"),
        ((HALF[0], REWARD, 0.9), r"transition=\(2, 2\) is not allowed: a dense one has the shape \[S, A, S'\]"),
        ((torch.ones(2, 2, 3) / 3, REWARD, 0.9), r"transition=\(2, 2, 3\)"),
        ((torch.ones(0, 2, 0), torch.zeros(0, 2), 0.9), r"transition=\(0, 2, 0\)"),
        ((HALF, REWARD, 0.9, torch.ones(2, 2) / 2), r"transition\[0, 0\] .* is 1.5: give 1 as the sum"),
        ((HALF, REWARD, 0.9, [[0.0, 0.0], [0.0, -0.5]]), r"termination\[1, 1\] .* is -0.5"),
        ((HALF, torch.zeros(2, 2, 2), 0.9, torch.zeros(2, 2)), r"reward.shape=\[2, 2, 2\].*without termination"),
        ((HALF, REWARD, 0.9, None, [0.5, 0.4]), r"start.sum\(\)=0.9"),
        ((HALF, REWARD, 0.9, None, [1.5, -0.5]), r"start\[1\] \(state\) is -0.5"),
        ((HALF, REWARD, 0.9, None, [1.0]), r"start.shape=\[1\].*each of the 2 states"),
        ((halves_sparse(0.4), REWARD, 0.9), r"transition\[0, 0\] .* is 0.9"),
        ((halves_sparse(-0.5), REWARD, 0.9), r"transition=-0.5 at row 0 .*, next state 1 is not allowed"),
        ((halves_sparse(torch.nan), REWARD, 0.9), r"transition=nan at row 0"),
        ((torch.eye(3).to_sparse(), REWARD, 0.9), r"reward.shape=\[2, 2\]"),
        ((torch.ones(3, 2).to_sparse() / 2, REWARD, 0.9), r"transition=\(3, 2\) is not allowed: a sparse one"),
        ((HALF, torch.eye(2).to_sparse(), 0.9), r"reward is sparse"),
        (("text", REWARD, 0.9), r"transition is no array of numbers"),
    ],
)  # fmt: skip
def test_what_is_no_mdp_is_refused_in_one_line_that_says_where(arguments, message):
    with pytest.raises(UsageError, match=message) as refused:
        MDP(*arguments)
    assert "\n" not in str(refused.value)


def test_without_a_discount_every_policy_must_end_and_the_message_says_which_does_not():
    # 0 -> 1 -> 2 -> end by action 0; action 1 leads from 2 back to 1: round and round between 1 and 2
    chain = torch.zeros(3, 2, 3)
    chain[0, :, 1] = chain[1, :, 2] = chain[2, 1, 1] = 1.0
    ends = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    with pytest.raises(UsageError, match="from state 0 on, with action 0 there, an episode need not end"):
        MDP(chain, torch.zeros(3, 2), 1.0, ends)
    chain[2, 1, 1] = 0.999
    ends[2, 1] = 0.001  # a small chance in each round is certain in the end
    mdp = MDP(chain, -torch.ones(3, 2), 1.0, ends)
    assert mdp.horizon >= 2 * 1000 + 1  # two steps a round
    sure = soft_policy_iteration(mdp, 0.0)
    torch.testing.assert_close(sure.v, torch.tensor([-3.0, -2.0, -1.0], dtype=torch.float64), rtol=0, atol=1e-8)


def test_the_horizon_with_a_discount_is_the_sum_of_the_powers_of_gamma():
    assert MDP(HALF, REWARD, 0.75).horizon == 4.0
    assert MDP(HALF, REWARD, 0.0).horizon == 1.0


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("FrozenLake-v1", {}),
        ("FrozenLake-v1", {"is_slippery": False}),
        ("FrozenLake-v1", {"desc": ["SFHS", "FFFG"], "success_rate": 0.6}),
        ("FrozenLake-v1", {"map_name": "8x8", "reward_schedule": (5, -2, -1)}),
        ("Taxi-v4", {}),
        ("Taxi-v4", {"is_rainy": True, "rainy_probability": 0.7}),
        ("CliffWalking-v1", {}),
        ("CliffWalking-v1", {"is_slippery": True}),
    ],
)
def test_the_mdp_of_an_environment_says_what_its_steps_do(env_id, options):
    env = gym.make(env_id, **options)
    mdp = MDP.from_env(env, 0.9)
    states, actions = env.observation_space.n, env.action_space.n
    assert mdp.transition.shape == (states, actions, states)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for s, a in zip(rng.integers(states, size=60), rng.integers(actions, size=60), strict=True):
        seen, ended, rewards = torch.zeros(states, dtype=torch.float64), 0.0, 0.0
        outcomes = env.unwrapped.P[s][a]
        tries = 1 if len(outcomes) == 1 else 400
        for _ in range(tries):
            env.unwrapped.s = int(s)
            next_state, reward, terminated, _, _ = env.unwrapped.step(a)
            rewards += reward / tries
            if terminated:
                ended += 1 / tries
            else:
                seen[next_state] += 1 / tries
        spread = 4.5 * 0.5 / tries**0.5 if tries > 1 else 1e-12
        assert (seen - mdp.transition[s, a]).abs().max() <= spread
        assert abs(ended - mdp.termination[s, a]) <= spread
        widest = max(o[2] for o in outcomes) - min(o[2] for o in outcomes)
        assert abs(rewards - mdp.reward[s, a]) <= spread * widest + 1e-9
    np.testing.assert_allclose(mdp.start.numpy(), env.unwrapped.initial_state_distrib)


def test_an_end_is_worth_nothing_even_where_the_table_goes_on_behind_it():
    mdp = MDP.from_env(gym.make("CliffWalking-v1"), 0.9)
    values = soft_policy_iteration(mdp, 0.0)
    assert values.v[35].item() == pytest.approx(-1.0)  # above the goal, whose own rows have -1 for each step
    assert values.v[36].item() == pytest.approx(-sum(0.9**k for k in range(13)))  # the start: 13 steps


def test_the_sparse_mdp_of_an_environment_is_the_dense_one():
    env = gym.make("Taxi-v4")
    dense, sparse = MDP.from_env(env, 0.9), MDP.from_env(env, 0.9, sparse=True)
    assert sparse.sparse
    assert torch.equal(sparse.transition.to_dense().view_as(dense.transition), dense.transition)
    assert torch.equal(sparse.reward, dense.reward)


def test_an_environment_without_a_true_table_is_refused():
    with pytest.raises(UsageError, match=r"CartPoleEnv has no transition table.*FrozenLake"):
        MDP.from_env(gym.make("CartPole-v1"), 0.9)
    with pytest.raises(UsageError, match=r"fickle_passenger=True.*leave that option out"):
        MDP.from_env(gym.make("Taxi-v4", fickle_passenger=True), 0.9)


def test_a_faulty_table_is_refused_with_its_place():
    env = gym.make("FrozenLake-v1", is_slippery=False)
    env.unwrapped.P[3][1] = [(0.5, 4, 0.0, False)]
    with pytest.raises(UsageError, match=r"transition\[3, 1\] .* is 0.5"):
        MDP.from_env(env, 0.9)
    env.unwrapped.P[3][1] = [(1.0, 16, 0.0, False)]
    with pytest.raises(UsageError, match=r"FrozenLakeEnv.P\[3\]\[1\]=16"):
        MDP.from_env(env, 0.9)
    del env.unwrapped.P[3][2]
    with pytest.raises(UsageError, match=r"FrozenLakeEnv.P\[3\]=3 .*4 actions"):
        MDP.from_env(env, 0.9)


@pytest.mark.parametrize(("states", "successors"), [(7, 3), (5, 5), (6, 1)])
def test_garnets_have_so_many_successors_and_are_the_same_for_one_seed(states, successors):
    mdp = MDP.garnet(states, 4, successors, 0.9, seed=5)
    assert ((mdp.transition > 0).sum(-1) == successors).all()
    assert torch.equal(mdp.transition, MDP.garnet(states, 4, successors, 0.9, seed=5).transition)
    assert not torch.equal(mdp.reward, MDP.garnet(states, 4, successors, 0.9, seed=6).reward)
    sparse = MDP.garnet(states, 4, successors, 0.9, seed=5, sparse=True)
    assert torch.equal(sparse.transition.to_dense().view_as(mdp.transition), mdp.transition)
    with pytest.raises(UsageError, match=f"successors={states + 1}"):
        MDP.garnet(states, 4, states + 1, 0.9, seed=5)


def test_every_set_of_successors_of_a_garnet_is_as_likely():
    rows = MDP.garnet(4, 3000, 2, 0.9, seed=0).transition.flatten(0, 1) > 0  # [12000, 4]
    pairs = (rows * torch.tensor([1, 2, 4, 8])).sum(-1).bincount(minlength=16)
    counts = pairs[pairs > 0]
    assert len(counts) == 6
    assert (counts - 2000).abs().max() < 4 * (12000 * 5 / 36) ** 0.5


def test_a_sparse_mdp_moves_as_a_dense_one_does():
    mdp = sparse_of(random_mdp(1))
    moved = mdp.to("cpu")
    assert moved.sparse
    torch.testing.assert_close(moved.transition.to_dense(), mdp.transition.to_dense())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sparse", [False, True])
def test_a_gpu_gives_the_values_of_the_cpu(sparse):
    mdp = MDP.garnet(50, 4, 3, 0.95, seed=0, sparse=sparse)
    there = soft_policy_iteration(mdp.to("cuda"), 0.1)
    assert there.q.device.type == "cuda"
    torch.testing.assert_close(there.q.cpu(), soft_policy_iteration(mdp, 0.1).q, rtol=0, atol=2e-8)
