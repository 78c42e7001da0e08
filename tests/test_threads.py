"""BLAS on one thread: while a function runs, and for good in a worker."""

import os
import subprocess
import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from moe_theory.study import sweep as sweeps
from moe_theory.theory.claims import claim_named
from moe_theory.threads import keep_one_blas_thread, one_blas_thread


def _threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_a_function_has_one_thread_and_leaves_the_rest_as_it_was():
    with threadpool_limits(limits=2, user_api="blas"):
        before = _threads()
        assert one_blas_thread(lambda matrix: (_threads(), np.linalg.svd(matrix)[1].shape))(np.eye(3)) == ({1}, (3,))
        assert _threads() == before


def test_an_error_passes_and_the_threads_come_back():
    @one_blas_thread
    def fails():
        raise ValueError("no")

    with threadpool_limits(limits=2, user_api="blas"):
        before = _threads()
        with pytest.raises(ValueError, match="no"):
            fails()
        assert _threads() == before


def test_a_worker_keeps_one_thread():
    with threadpool_limits(limits=2, user_api="blas"):
        keep_one_blas_thread()
        assert _threads() == {1}


class Idle:
    """A replicator that notes how many threads BLAS has while it is asked."""

    def __init__(self, seen):
        self.seen = seen

    def compile(self):
        self.seen.append(_threads())

    def cells(self, gaps):
        self.seen.append(_threads())
        return iter(gaps)


def test_cells_are_computed_with_one_thread(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(sweeps, "_replicator", lambda *_: Idle(seen))
    claim = claim_named("lora-exact")
    with threadpool_limits(limits=2, user_api="blas"):
        list(sweeps.compute_cells(claim, sweeps.sweep_of(claim), tmp_path, []))
    assert seen == [{1}, {1}]


BATCHES = """
import moe_theory
moe_theory.enable_x64()
import jax
import jax.numpy as jnp
import numpy as np

def chain(matrix):
    turned = jnp.linalg.qr(matrix, mode="complete")[0]
    for _ in range(3):
        turned = jnp.linalg.qr(jnp.sin(turned[:, :9]) + matrix, mode="complete")[0]
    return turned

@jax.jit
@jax.vmap
def several(matrices):
    return [chain(jnp.sin(matrix) * (index + 1)) for index, matrix in enumerate(matrices)]

points = jnp.asarray(np.random.default_rng(0).normal(size=(256, 12, 24, 9)))
for _ in range(10):
    jax.block_until_ready(several(points))
"""


def computed(program, **variables):
    """How a process of its own ends, on two processors by XLA's count."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"NPROC": "2", **variables}
    return subprocess.run(
        [sys.executable, "-c", program], timeout=120, env=environment, capture_output=True, text=True, check=False
    )


def test_decompositions_at_once_do_not_wait_for_each_other():
    """With two threads and without the precaution, jaxlib 0.10.2's batched decompositions block each other for ever."""
    assert computed(BATCHES).returncode == 0


def test_nor_on_several_host_devices():
    on_both = BATCHES.replace("(several(points))", "([several(jax.device_put(points, at)) for at in jax.devices()])")
    assert computed(on_both, XLA_FLAGS="--xla_force_host_platform_device_count=2").returncode == 0


@pytest.mark.parametrize(("first", "told"), [("jax.numpy.zeros(1)", True), ("0", False)])
def test_a_precaution_that_comes_too_late_is_told(first, told):
    ended = computed(f"import jax; import moe_theory; {first}; moe_theory.enable_x64()", JAX_PLATFORMS="cpu")
    assert ended.returncode == 0
    assert ("call enable_x64() first" in ended.stderr) == told
