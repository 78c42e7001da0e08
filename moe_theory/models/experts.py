"""Experts: the output h(x; W_V) of an atom, linear in known features of x."""

import abc

import equinox as eqx
from jaxtyping import Array, Float


class AbstractExpert(eqx.Module):
    """An output h(x; W_V) that is linear in known features of x."""

    @abc.abstractmethod
    def output(self, value: Float[Array, "d_out d"], x: Float[Array, " d"]) -> Float[Array, " d_out"]:
        """The output h(x; W_V) of one atom at one sample."""

    @abc.abstractmethod
    def coefficients(self, value: Float[Array, "d_out d"]) -> Float[Array, "d_out features"]:
        """The matrix that multiplies the features."""

    @abc.abstractmethod
    def features(self, x: Float[Array, " d"]) -> Float[Array, " features"]:
        """The features of x."""


class LinearExpert(AbstractExpert):
    """Linear expert: h(x; W_V) = W_V x. Source: theory section 1."""

    def output(self, value: Float[Array, "d_out d"], x: Float[Array, " d"]) -> Float[Array, " d_out"]:
        """h = W_V x."""
        return value @ x

    def coefficients(self, value: Float[Array, "d_out d"]) -> Float[Array, "d_out features"]:
        """W_V itself."""
        return value

    def features(self, x: Float[Array, " d"]) -> Float[Array, " features"]:
        """x itself."""
        return x
