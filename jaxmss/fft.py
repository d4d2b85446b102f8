"""Fourier transforms of real signals that stay where their signals are.

A transform of the last axis is one for each position of the leading ones. XLA's partitioner does not know that: it
would gather a sharded batch on every device, and transform it there as a whole.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_derivatives import linear_call
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from jaxmss.typing import Array, Complex, Float


def rfft(signal: Float[Array, "*b t"]) -> Complex[Array, "*b f"]:
    """Return the ``f = t // 2 + 1`` first bins of the discrete Fourier transform."""
    n = signal.shape[-1]
    return linear_call(lambda _, x: _rfft(x, n), lambda _, y: _rfft_transposed(y, n), (), signal)


def irfft(spectrum: Complex[Array, "*b f"], n: int) -> Float[Array, "*b n"]:
    """Return the signal of `n` samples that `rfft` gives these ``n // 2 + 1`` bins."""
    return linear_call(lambda _, y: _irfft(y, n), lambda _, x: _irfft_transposed(x, n), (), spectrum)


def _divided(transform: Callable[[Array, int], Array]) -> Callable[[Array, int], Array]:
    """Let each device transform the part that it has of the leading axes."""
    divided = custom_partitioning(transform, static_argnums=(1,))

    def partition(n: int, mesh: jax.sharding.Mesh, arguments: tuple, result: jax.ShapeDtypeStruct) -> tuple:
        del result
        (argument,) = arguments
        leading = argument.sharding.spec[: len(argument.shape) - 1]
        sharding = NamedSharding(argument.sharding.mesh, PartitionSpec(*leading))
        return mesh, lambda x: transform(x, n), sharding, (sharding,)

    divided.def_partition(partition, sharding_rule="... i -> ... j", need_replication_factors=("i", "j"))
    return divided


@_divided
def _rfft(signal: Array, n: int) -> Array:
    return jnp.fft.rfft(signal, n)


@_divided
def _irfft(spectrum: Array, n: int) -> Array:
    return jnp.fft.irfft(spectrum, n)


@_divided
def _rfft_transposed(spectrum: Array, n: int) -> Array:
    signal = jax.ShapeDtypeStruct((*spectrum.shape[:-1], n), jnp.float32)
    return jax.linear_transpose(jnp.fft.rfft, signal)(spectrum)[0]


@_divided
def _irfft_transposed(signal: Array, n: int) -> Array:
    spectrum = jax.ShapeDtypeStruct((*signal.shape[:-1], n // 2 + 1), jnp.complex64)
    return jax.linear_transpose(lambda y: jnp.fft.irfft(y, n), spectrum)(signal)[0]
