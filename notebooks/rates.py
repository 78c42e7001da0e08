# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # At which rate is a mixture of low-rank experts estimated?
#
# Data come from a regression function $f_{G_*}$: a softmax of `k_true` low-rank adapters beside a frozen one. Least
# squares fits `k_fit` adapters to $n$ noisy observations, and the Voronoi loss $D_1$ measures how far the fitted
# adapters are from the true ones. Theory predicts $D_1 \sim n^{-1/2}$ when `k_fit = k_true`; when `k_fit` is larger,
# the atoms that share a true one are slower, $n^{-1/4}$ for RepLoRA, and plain LoRA's value matrices stay away.
#
# The toolkit draws the sufficient statistics of $n$ observations exactly, so that $n = 10^{12}$ costs no more than
# $n = 10^3$. It certifies every fit as a minimiser and judges the measured exponent against the predicted one.
# This notebook runs one claim at a small size in a temporary folder; `moe-theory run` is the same at full size.

# %%
# %matplotlib inline
from pathlib import Path
from tempfile import mkdtemp

from moe_theory.study.figures import draw
from moe_theory.study.panels import claim_panel
from moe_theory.study.report import report
from moe_theory.study.store import Store, load_results
from moe_theory.study.sweep import SMOKE, run_claims, sweep_of
from moe_theory.study.tables import verdict_table
from moe_theory.theory.claims import claim_named

results = Path(mkdtemp())

# %% [markdown]
# ## Run
#
# Four sizes and eight replications: this shows how it works, and decides nothing.

# %%
claim = claim_named("replora-linear-exact")
sweep = sweep_of(claim, **SMOKE)
_ = run_claims([(claim, sweep)], Store(results), workers=1)

# %% [markdown]
# ## Load
#
# One row per replication: its errors, its certificate and how it was found.

# %%
rows = load_results(results)
rows[["n", "replication", "status", "D_1", "function_error", "starts_agreeing"]].head()

# %% [markdown]
# ## Judge
#
# A verdict is SUPPORTED, REFUTED, or, as here where the grid is too short to tell, UNDECIDED.

# %%
made = report(claim, sweep, rows)
print(verdict_table([made]))

# %% [markdown]
# ## Draw

# %%
panel = claim_panel(
    claim.model, rows, made.main.verdict, claim.main.from_size, ["D_1", "function_error"], {"function_error": -0.5}
)
draw([panel])
