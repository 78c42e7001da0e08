"""What a problem with adapted experts is whose noise is that of a mixture: a density, by its likelihood or its mean."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from moe_theory.study.spec import DENSITY_REVISION, ProblemSpec, Sizes, SweepSpec, parse_sizes


class AdaptedProblemSpec(ProblemSpec):
    """A low-rank density (``models.adapted_density``), x and y in the plane by default.

    Attributes:
        density: 'joint', p(x, y), or 'conditional', p(y | x) with x on ``support`` points.
        estimator: 'likelihood', or 'least-squares' on the same draws (conditional only).
        sigma: root of nu, the noise of an expert.
        noise: whether nu is 'known', or 'free' and shared by all atoms.
        spread: whether Gamma is 'known', the identity, or 'free', one per atom (joint only).
    """

    dimension: Annotated[int, Field(ge=1)] = 2
    gate: Literal["attention", "gaussian", "density"] = "density"
    support: int = 32
    anchored: bool = False
    density: Literal["joint", "conditional"] = "joint"
    estimator: Literal["likelihood", "least-squares"] = "likelihood"
    noise: Literal["known", "free"] = "known"
    spread: Literal["known", "free"] = "known"

    @field_validator("gate")
    @classmethod
    def _gate_is_a_density(cls, gate: str) -> str:
        if gate != "density":
            raise ValueError("a density needs the gate 'density'")
        return gate

    @field_validator("estimator")
    @classmethod
    def _least_squares_needs_inputs(cls, estimator: str, info: Any) -> str:
        if estimator == "least-squares" and info.data.get("density") == "joint":
            raise ValueError("least squares fits the conditional mean: use density = 'conditional'")
        return estimator

    @field_validator("density")
    @classmethod
    def _anchor_of_density(cls, density: str, info: Any) -> str:
        anchored = info.data.get("anchored")
        if anchored is not None and anchored != (density == "conditional"):
            raise ValueError("a conditional density needs anchored = true, and a joint one anchored = false")
        return density


class AdaptedSweepSpec(SweepSpec):
    """A low-rank density swept over sample sizes."""

    revision: ClassVar[int] = DENSITY_REVISION
    problem: AdaptedProblemSpec = AdaptedProblemSpec()  # pyright: ignore[reportIncompatibleVariableOverride]
    sizes: Sizes = parse_sizes("1e6:1e12:5")
