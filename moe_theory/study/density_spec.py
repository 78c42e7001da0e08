"""What a problem of density estimation is; see ``spec`` for regression and for what the two have in common."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from moe_theory.study.spec import (
    DENSITY_REVISION,
    Positive,
    ProblemSpec,
    Real,
    Sizes,
    Specification,
    SweepSpec,
    parse_sizes,
)

K_TRUE = {"type-1": 3, "type-2": 3, "published": 2}
"""Atoms of the truth by setting."""
FAMILIES = {"gaussian-gated": ("type-1", "type-2"), "softmax-gated": ("published",)}


class DensityProblemSpec(Specification):
    """Maximum likelihood with one of the published settings of theory section 6 (d = 1).

    Attributes:
        family: 'gaussian-gated', the joint density, or 'softmax-gated', that of y given x.
        setting: the truth: 'type-1' or 'type-2' (Gaussian gate), 'published' (softmax gate).
        k_true: atoms of the truth; fixed by the setting.
        k_fit: atoms of the fitted measure.
        weight_floor: least share of an atom.
        deviation_floor: least standard deviation that Theta allows, as a share of the truth's least, by axis.
        support: points of x where the gate is a softmax.
    """

    family: Literal["gaussian-gated", "softmax-gated"] = "gaussian-gated"
    setting: Literal["type-1", "type-2", "published"] = "type-1"
    k_true: int = 3
    k_fit: int = 4
    weight_floor: Annotated[Real, Field(gt=0)] = 0.05
    deviation_floor: Annotated[Positive, Field(lt=1)] = 0.65
    support: Annotated[int, Field(ge=8, le=512)] = 32

    @field_validator("setting")
    @classmethod
    def _setting_of_family(cls, setting: str, info: object) -> str:
        family = getattr(info, "data", {}).get("family")
        if family is not None and setting not in FAMILIES[family]:
            raise ValueError(f"{family} has the settings {', '.join(FAMILIES[family])}")
        return setting

    @field_validator("k_true")
    @classmethod
    def _truth_of_setting(cls, k_true: int, info: object) -> int:
        setting = getattr(info, "data", {}).get("setting")
        if setting is not None and k_true != K_TRUE[setting]:
            raise ValueError(f"the setting {setting} has {K_TRUE[setting]} true atoms")
        return k_true

    @field_validator("k_fit")
    @classmethod
    def _truth_can_be_fitted(cls, k_fit: int, info: object) -> int:
        k_true = getattr(info, "data", {}).get("k_true")
        if k_fit < 1 or (k_true is not None and not k_true <= k_fit <= k_true + 2):
            raise ValueError("k_fit must be k_true, or one or two more")
        return k_fit

    @field_validator("weight_floor")
    @classmethod
    def _floor_leaves_room(cls, weight_floor: float, info: object) -> float:
        k_fit = getattr(info, "data", {}).get("k_fit", 1)
        if weight_floor * k_fit >= 0.5:
            raise ValueError(f"weight_floor must be below 1/(2 k_fit) = 1/{2 * k_fit}, to leave the truth inside")
        return weight_floor


AnyProblem = ProblemSpec | DensityProblemSpec
"""What can be certified and swept."""


class DensitySweepSpec(SweepSpec):
    """A density problem swept over sample sizes."""

    revision: ClassVar[int] = DENSITY_REVISION
    problem: DensityProblemSpec = DensityProblemSpec()  # pyright: ignore[reportIncompatibleVariableOverride]
    sizes: Sizes = parse_sizes("1e8:1e15:8")
