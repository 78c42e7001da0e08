"""Singular value decomposition that does not give up, and what a least-squares step needs of it.

LAPACK's divide-and-conquer driver, which NumPy calls, may fail to converge on a finite matrix (it did on a Jacobian of
2,049 by 198 entries of order one); its older driver by QR iterations takes longer and converges.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.linalg import svd as scipy_svd


def svd(matrix: Float[np.ndarray, "m n"], full_matrices: bool = False) -> tuple[Any, Any, Any]:
    """U, singular values from the largest on, and V', as `numpy.linalg.svd`.

    Raises:
        ValueError: an entry is not finite.
    """
    try:
        return np.linalg.svd(matrix, full_matrices=full_matrices)
    except np.linalg.LinAlgError:
        return scipy_svd(matrix, full_matrices=full_matrices, lapack_driver="gesvd")


def pulled_svd(
    matrix: Float[np.ndarray, "m n"], vector: Float[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"], Float[np.ndarray, "s n"]]:
    """(U' vector, singular values, V') of a matrix, in half the time of a decomposition that forms U.

    Of a tall matrix the triangular factor of (matrix, vector) is all that they depend on. Raises as `svd`.
    """
    columns = matrix.shape[1]
    if matrix.shape[0] > columns:
        triangle = np.asarray(np.linalg.qr(np.column_stack([matrix, vector]), mode="r"))
        matrix, vector = triangle[:columns, :columns], triangle[:columns, columns]
    left, values, right = svd(matrix)
    return left.T @ vector, values, right


def singular_values(matrix: Float[np.ndarray, "m n"]) -> Float[np.ndarray, " s"]:
    """From the largest on; raises as `svd`."""
    try:
        return np.linalg.svd(matrix, compute_uv=False)
    except np.linalg.LinAlgError:
        return np.asarray(scipy_svd(matrix, compute_uv=False, lapack_driver="gesvd"))
