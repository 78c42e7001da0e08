"""Validate, by simulation and by computation, the statistical theory of mixtures of experts and low-rank adaptation."""

from moe_theory.precision import enable_x64, require_x64

__version__ = "0.1.0"

__all__ = ["__version__", "enable_x64", "require_x64"]
