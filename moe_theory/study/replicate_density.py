"""Rows of a sweep of maximum likelihood: counts drawn on the grid, fitted, certified and measured."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from moe_theory.estimation.likelihood import objective
from moe_theory.estimation.mixture import MixtureKind, shares
from moe_theory.estimation.mixture_starts import MixtureStartMaker, mixture_plan_named
from moe_theory.estimation.pool import Pool
from moe_theory.jitting import jitted
from moe_theory.study.density_problem import COMPACT_SIZE, build_density
from moe_theory.study.density_spec import DensitySweepSpec
from moe_theory.study.lanes import COMPILE_SIZE, AbstractReplicator, Replication
from moe_theory.theory.mixture_losses import BlockLosses, block_losses

AT_FLOOR = 1e-3
"""An atom whose share is within this of the weight floor is counted as on it."""


class DensityReplicator(AbstractReplicator):
    """Rows of a sweep of a Gaussian mixture of experts."""

    def __init__(self, sweep: DensitySweepSpec):
        self.sweep = sweep
        self.setup = setup = build_density(sweep.problem)
        plan = mixture_plan_named(sweep.starts)
        largest = sweep.sizes[-1]
        self._compact = setup.compact_cells(largest) if largest <= COMPACT_SIZE else None
        self._maker = MixtureStartMaker(setup.model, setup.space, setup.k_fit, setup.rows, plan)
        self._problem = MixtureKind(setup.model, setup.levels)
        size = largest if self._compact else COMPILE_SIZE
        super().__init__(Pool(self._problem, (setup.space,), sweep.block), sweep.block, size)
        self._measure = jitted(jax.vmap(self._measure_lane))
        self._value = jax.jit(lambda points: objective(setup.model, jnp.asarray(setup.rows), points))

    def draw(self, n: int, number: int) -> Replication:
        """The counts of n draws, and starts."""
        points = self.setup.draw(n, self.sweep.seed, number, self._compact)
        starts = self._maker.make(n, self.sweep.seed, number, points)
        return Replication(n, number, points, float(self._value(points)), starts.kinds, starts.z)

    def _measure_lane(self, z: jax.Array) -> tuple[BlockLosses, jax.Array, jax.Array]:
        """Losses, Hellinger distance on the grid, and how many atoms are on the weight floor."""
        setup = self.setup
        rows = z.reshape(setup.k_fit, -1)
        found = block_losses(setup.model, setup.model.measure(rows), setup.truth, setup.metric)
        x, y = jnp.asarray(setup.grid.x), jnp.asarray(setup.grid.y)
        gap = setup.model.log_densities(rows, x, y) - setup.model.log_densities(jnp.asarray(setup.rows), x, y)
        squared = 0.5 * jnp.sum(jnp.asarray(setup.grid.probability) * jnp.expm1(0.5 * gap) ** 2)
        on_floor = jnp.sum(shares(setup.model, setup.space, rows) < setup.space.weight_floor + AT_FLOOR)
        return found, jnp.sqrt(squared), on_floor

    def rows(self, members: list[Replication]) -> pd.DataFrame:
        """Choose the fit of every replication and measure it."""
        frame, _, states, best, far, starts = self.chosen(members)
        frame = frame.assign(**_columns(*self.padded(self._measure, states.z[best])))
        untied_losses = self.padded(self._measure, states.z[far])[0]
        start_losses = self.padded(self._measure, starts)[0]
        known = frame["far_excess"].notna()
        return frame.assign(
            start_D=start_losses.d,
            far_D=np.where(known, untied_losses.d, np.nan),
            far_pair_intercept_error=np.where(known, untied_losses.errors["pair_intercept"], np.nan),
        )


def _columns(losses: BlockLosses, distance: np.ndarray, on_floor: np.ndarray) -> dict[str, Any]:
    return {
        "D": losses.d,
        "D_published": losses.d_published,
        "D_1": losses.d_1,
        "weight_error": losses.weight,
        **{f"{name}_error": error for name, error in losses.errors.items()},
        "cells": losses.pattern,
        "function_error": distance,
        "atoms_on_floor": on_floor,
    }
