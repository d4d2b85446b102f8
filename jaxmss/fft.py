"""Fourier transforms of real signals that stay where their signals are.

A transform of the last axis is one for each position of the leading ones. XLA's partitioner does not know that: it
would gather a sharded batch on every device, and transform it there as a whole. On CPUs and GPUs it is told so. A TPU's
compiler takes no such advice, but divides matrix products by itself, and the matrix unit is what a TPU is made of.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import linear_call
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from jaxmss.typing import Array, Complex, Float, PyTree


def rfft(signal: Float[Array, "*b t"]) -> Complex[Array, "*b f"]:
    """Return the ``f = t // 2 + 1`` first bins of the discrete Fourier transform."""
    n = signal.shape[-1]
    share = _share(n)
    return lax.complex(
        *linear_call(lambda _, x: _rfft(n, x), lambda _, y: _irfft(n, y[0] / share, y[1] / share), (), signal)
    )


def irfft(spectrum: Complex[Array, "*b f"], n: int) -> Float[Array, "*b n"]:
    """Return the signal of `n` samples that `rfft` gives these ``n // 2 + 1`` bins."""
    share = _share(n)

    def transposed(_: tuple, signal: Array) -> tuple[Array, Array]:
        real, imag = _rfft(n, signal)
        return real * share, imag * share

    return linear_call(lambda _, y: _irfft(n, *y), transposed, (), (spectrum.real, spectrum.imag))


def _share(n: int) -> Float[np.ndarray, " f"]:
    """Return the factor between inverse and transpose: all bins but those without a mirror image count twice."""
    bins = np.arange(n // 2 + 1)
    return (np.where(bins == -bins % n, 1, 2) / n).astype(np.float32)


def _rfft(n: int, signal: Array) -> tuple[Array, Array]:
    """Return real and imaginary part of the bins."""
    return lax.platform_dependent(
        signal, tpu=functools.partial(rfft_by_matrix, n), default=functools.partial(_divided_rfft, n)
    )


def _irfft(n: int, real: Array, imag: Array) -> Array:
    return lax.platform_dependent(
        real, imag, tpu=functools.partial(irfft_by_matrix, n), default=functools.partial(_divided_irfft, n)
    )


def rfft_by_matrix(n: int, signal: Float[Array, "*b n"]) -> tuple[Float[Array, "*b f"], Float[Array, "*b f"]]:
    """Return real and imaginary part of the bins, as products with the matrices of the transform."""
    cos, sin = _matrices(n)
    return (
        jnp.matmul(signal, cos, precision=lax.Precision.HIGHEST),
        jnp.matmul(signal, sin, precision=lax.Precision.HIGHEST),
    )


def irfft_by_matrix(n: int, real: Float[Array, "*b f"], imag: Float[Array, "*b f"]) -> Float[Array, "*b n"]:
    """Return the signal of these bins, as a product with the transposed matrices."""
    cos, sin = (matrix.T * _share(n)[:, None] for matrix in _matrices(n))
    return jnp.matmul(real, cos, precision=lax.Precision.HIGHEST) + jnp.matmul(
        imag, sin, precision=lax.Precision.HIGHEST
    )


@functools.cache
def _matrices(n: int) -> tuple[Float[np.ndarray, "n f"], Float[np.ndarray, "n f"]]:
    spectra = np.fft.rfft(np.eye(n))
    return spectra.real.astype(np.float32), spectra.imag.astype(np.float32)


def _divided(transform: Callable, rule: str) -> Callable:
    """Let each device transform the part that it has of the leading axes; `rule` names the axes as Shardy does."""
    divided = custom_partitioning(transform, static_argnums=(0,))

    def partition(n: int, mesh: jax.sharding.Mesh, arguments: tuple, results: PyTree) -> tuple:
        first = arguments[0]
        leading = first.sharding.spec[: len(first.shape) - 1]
        sharding = NamedSharding(first.sharding.mesh, PartitionSpec(*leading))
        before, after = (jax.tree.map(lambda _: sharding, arrays) for arrays in (arguments, results))
        return mesh, lambda *parts: transform(n, *parts), after, before

    divided.def_partition(partition, sharding_rule=rule, need_replication_factors=("i", "j"))
    return divided


def _library_rfft(n: int, signal: Array) -> tuple[Array, Array]:
    spectrum = jnp.fft.rfft(signal, n)
    return spectrum.real, spectrum.imag


def _library_irfft(n: int, real: Array, imag: Array) -> Array:
    return jnp.fft.irfft(lax.complex(real, imag), n)


_divided_rfft = _divided(_library_rfft, "... i -> ... j, ... j")
_divided_irfft = _divided(_library_irfft, "... i, ... i -> ... j")
