"""What a claim is: the errors that are measured and the law that theory predicts for each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from moe_theory.theory.laws import Prediction
from moe_theory.theory.summaries import Statistic


@dataclass(frozen=True)
class Measure:
    """One error of a claim and the law predicted for it.

    Attributes:
        column: name of the error among the stored columns.
        words: what it is, for tables.
        prediction: the law.
        from_size: sizes below it are stored and drawn but not judged: the law is asymptotic.
        statistic: the curve that is judged, 'median' or 'mean' over replications. A law for the mean is the stronger
            statement: rare replications that do not converge leave the median alone.
        conditional: whether only a fit with such a cell has a value; which cell the extra atom joins is random. The law
            is that of the fits that have one; the others are counted and shown.
        remark: why the law need not hold, said with a verdict that refutes it.
    """

    column: str
    words: str
    prediction: Prediction
    from_size: float = 0.0
    statistic: Statistic = "median"
    conditional: bool = False
    remark: str = ""


@dataclass(frozen=True)
class Claim:
    """A row of the claims table.

    Attributes:
        id: its name.
        model: in words.
        specification: 'exact' (k_fit = k_true) or 'over'.
        statement: what is claimed.
        source: where the claim comes from.
        main: the measure whose verdict is the claim's.
        others: further measures, each with a verdict of its own.
        problem: settings of the problem that differ from the defaults.
        identified_set: whether the range of D over the identified set is computed (the objective leaves it open).
        sweep: settings of the sweep (sizes, replications) that differ from the defaults.
        kind: what is fitted: a regression function by least squares, a published density by maximum likelihood, or a
            density of adapted experts by either.
    """

    id: str
    model: str
    specification: str
    statement: str
    source: str
    main: Measure
    others: tuple[Measure, ...] = ()
    problem: Mapping[str, Any] = field(default_factory=dict)
    identified_set: bool = False
    sweep: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["regression", "density", "adapted-density"] = "regression"
