"""Random transitions with a given number of successors."""

import torch
from torch import Tensor


def random_rows(rows: int, states: int, successors: int, generator: torch.Generator) -> Tensor:
    """A sparse matrix [rows, states] of distributions, each over its own random `successors` states.

    Successors are drawn without repetition (Floyd's algorithm: a number that has been drawn gives way to the largest
    one allowed, which cannot have been); probabilities are the parts of [0, 1] between uniform random cuts.

    Args:
        rows: of the matrix.
        states: its columns.
        successors: entries of each row, 1 to `states`.
        generator: torch's, on the CPU.

    Returns:
        A coalesced COO matrix, float64.
    """
    column = torch.full((rows, successors), -1)
    for i, largest in enumerate(range(states - successors, states)):
        drawn = torch.randint(largest + 1, (rows, 1), generator=generator)
        taken = (column == drawn).any(-1, keepdim=True)
        column[:, i : i + 1] = drawn.masked_fill(taken, largest)
    cuts = torch.rand(rows, successors - 1, dtype=torch.float64, generator=generator).sort(-1).values
    ends = torch.cat([cuts.new_zeros(rows, 1), cuts, cuts.new_ones(rows, 1)], -1)
    row = torch.arange(rows).repeat_interleave(successors)
    index = torch.stack([row, column.flatten()])
    return torch.sparse_coo_tensor(index, ends.diff().flatten(), (rows, states), check_invariants=True).coalesce()
