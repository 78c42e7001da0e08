"""Singular value decomposition that does not give up.

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


def singular_values(matrix: Float[np.ndarray, "m n"]) -> Float[np.ndarray, " s"]:
    """From the largest on; raises as `svd`."""
    try:
        return np.linalg.svd(matrix, compute_uv=False)
    except np.linalg.LinAlgError:
        return np.asarray(scipy_svd(matrix, compute_uv=False, lapack_driver="gesvd"))
