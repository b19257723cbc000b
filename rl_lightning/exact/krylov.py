"""x = b + M x for a large sparse M, by GMRES (Saad and Schultz 1986)."""

import torch
from torch import Tensor

SHORTEST_ROUND, LONGEST_ROUND = 20, 160  # products with M; a round keeps as many vectors as it has products


def solve_fixed_point(
    m: Tensor, b: Tensor, x: Tensor, tolerance: float, order: float = torch.inf
) -> tuple[Tensor, int]:
    """x with ‖b + M x − x‖ ≤ tolerance, where x ← b + M x converges by itself (γ times a stochastic matrix).

    A round of GMRES that does not halve the residual is compared with as many plain iterations, and the better of the
    two is taken: so it takes at most about twice the products of these, and mostly far fewer. The next round is longer.

    Args:
        m: M, a sparse matrix [S, S].
        b: [S].
        x: [S], where it begins.
        tolerance: of the residual; what float64 cannot tell is not asked for.
        order: of the norm, ∞ or 1.

    Returns:
        x, [S], and the number of rounds.
    """
    rounds, products = 0, SHORTEST_ROUND
    residual = b + m @ x - x
    while (size := _norm(residual, order)) > max(tolerance, 16 * torch.finfo(b.dtype).eps * _norm(x, order)):
        better = x + _correction(m, residual, products)
        left = b + m @ better - better
        if not _norm(left, order) <= 0.5 * size:
            plain = x
            for _ in range(products):
                plain = b + m @ plain
            left_of_plain = b + m @ plain - plain
            if not _norm(left, order) <= _norm(left_of_plain, order):
                better, left = plain, left_of_plain
            products = min(2 * products, LONGEST_ROUND)
        x, residual, rounds = better, left, rounds + 1
    return x, rounds


def _correction(m: Tensor, residual: Tensor, products: int) -> Tensor:
    """argmin over the Krylov space of ‖residual − (I − M) y‖₂: y, [S]."""
    size = residual.norm()
    basis = residual.new_zeros(products + 1, len(residual))  # [j, S], orthonormal
    hessenberg = residual.new_zeros(products + 1, products)
    basis[0] = residual / size
    for j in range(products):
        new = basis[j] - m @ basis[j]
        for _ in range(2):  # Gram–Schmidt twice is enough
            parts = basis[: j + 1] @ new
            new = new - parts @ basis[: j + 1]
            hessenberg[: j + 1, j] += parts
        length = new.norm()
        hessenberg[j + 1, j] = length
        if length <= 1e-14 * hessenberg[: j + 1, j].norm():  # the space is closed: it has the solution
            break
        basis[j + 1] = new / length
    small = hessenberg[: j + 2, : j + 1]
    target = small.new_zeros(j + 2, 1)
    target[0] = size
    y: Tensor = torch.linalg.lstsq(small, target).solution[:, 0]
    return y @ basis[: j + 1]


def _norm(x: Tensor, order: float) -> float:
    return float(torch.linalg.vector_norm(x, order))
