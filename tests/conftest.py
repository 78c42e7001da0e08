"""Test session: float64, two host devices, run-time shape checks, no implicit rank promotion."""

import os
import sys
from pathlib import Path

import jaxtyping
import matplotlib
import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]

CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
"""Checks annotations at run time; a whole number passes for a float, as the typing standard says."""


XLA_SETTINGS = {"xla_force_host_platform_device_count": "2", "xla_cpu_use_fusion_emitters": "false"}
"""Two devices, and for everything the emitter that ``jitting.OLDER_EMITTER`` asks for: most of a test is compilation,
which takes 40 % less with it."""


def _prepare_environment() -> None:
    """Set what JAX reads once, when it is first imported."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    flags = os.environ.get("XLA_FLAGS", "")
    for name, setting in XLA_SETTINGS.items():
        if name not in flags:
            flags = f"{flags} --{name}={setting}"
    os.environ["XLA_FLAGS"] = flags.strip()


def _prepare_libraries() -> None:
    """Configure jax, matplotlib and hypothesis; checks are hooked in before the package is first imported."""
    if any(name == "moe_theory" or name.startswith("moe_theory.") for name in sys.modules):
        raise RuntimeError("moe_theory was imported before its shape checks could be installed")
    jaxtyping.install_import_hook("moe_theory", CHECKER)
    matplotlib.use("Agg")
    from moe_theory.compiled import keep_compiled

    keep_compiled(REPOSITORY / ".cache" / "jax")
    import jax

    import moe_theory

    moe_theory.enable_x64()
    jax.config.update("jax_numpy_rank_promotion", "raise")
    # Compilation breaks any deadline; the same examples in every run, so that a failure is the change's own.
    settings.register_profile("moe-theory", deadline=None, derandomize=True)
    settings.load_profile("moe-theory")


_prepare_environment()
_prepare_libraries()


@pytest.fixture(scope="module")
def quick():
    """One device and no costly optimisation by the compiler: these lanes are short."""
    import jax

    with pytest.MonkeyPatch.context() as patch:
        first = jax.local_devices()[:1]
        patch.setattr(jax, "local_devices", lambda: first)
        before = jax.config.read("jax_disable_most_optimizations")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", before)
