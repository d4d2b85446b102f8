"""The bidirectional LSTM of Demucs, on overlapping pieces of long sequences."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxmss.models.demucs_convolutions import Initializer, torch_uniform
from jaxmss.models.layers import Lengths, zero_after
from jaxmss.typing import Array, DTypeLike, Float

LAYERS = 2
LONGEST = 200  # steps of a sequence that is not cut into pieces, and of each piece

SHUT = -1e9  # what drives a gate that lets nothing through


class LSTM(nn.Module):
    """Two bidirectional layers, a projection to the features of the input, and the input.

    A sequence of more than 200 steps is cut into pieces of that length, half overlapping; of each the middle is kept.
    Sequence `b` ends after ``lengths[b]`` steps, where they are given.

    Attributes:
      dtype: of the computation; parameters are float32.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t h"], lengths: Lengths | None = None) -> Float[Array, "b t h"]:
        """Map each sequence to one of the same shape."""
        b, length, features = x.shape
        y = zero_after(x, lengths)
        steps = lengths
        if length > LONGEST:
            y = _pieces(y)
            if lengths is not None:  # a short sequence is a piece that ends with it; the last of a long one is whole
                steps = jnp.repeat(jnp.where(lengths > LONGEST, LONGEST, lengths), len(y) // b)
        for layer in range(LAYERS):
            y = _BothWays(self.dtype, name=f"layer_{layer}")(y, features, steps)
        kernel = self.param("kernel", torch_uniform(2 * features), (2 * features, features)).astype(self.dtype)
        bias = self.param("bias", torch_uniform(2 * features), (features,)).astype(self.dtype)
        y = jnp.matmul(y, kernel, precision=lax.Precision.HIGHEST) + bias
        return x + (_joined(y, b, lengths)[:, :length] if length > LONGEST else y)


class _BothWays(nn.Module):
    """One layer in both directions: (b, t, i) to (b, t, 2 h), forwards first."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b t i"], features: int, steps: Lengths | None) -> Float[Array, "b t hh"]:
        uniform = torch_uniform(features)
        inputs = self.param("inputs", uniform, (2, x.shape[-1], 4 * features)).astype(self.dtype)
        recurrent = self.param("recurrent", uniform, (2, features, 4 * features)).astype(self.dtype)
        bias = self.param("bias", _two_biases(features), (2, 4 * features)).astype(self.dtype)
        ahead, back = (jnp.matmul(x, inputs[way], precision=lax.Precision.HIGHEST) + bias[way] for way in range(2))
        if steps is not None:  # backwards all gates are shut until the sequence begins, with its last step
            back = jnp.where((jnp.arange(x.shape[1]) < steps[:, None])[..., None], back, SHUT)
        # both directions take each step together, one of them through the sequence turned round
        driven = jnp.stack([ahead, back[:, ::-1]]).transpose(2, 0, 1, 3)  # t w b 4h

        hidden = _recurrence(recurrent, driven)
        forwards, backwards = hidden[:, 0], hidden[::-1, 1]
        return jnp.concatenate([forwards, backwards], axis=-1).swapaxes(0, 1)


def _unrolled(recurrent: Float[Array, "w h 4*h"], driven: Float[Array, "t w b 4*h"]) -> Float[Array, "t w b h"]:
    """Return what each step leaves behind, from what drives its gates beside the step before it."""

    def step(carry: tuple[Array, Array], drive: Array) -> tuple[tuple[Array, Array], Array]:
        hidden, cell = carry
        recurred = [jnp.matmul(hidden[way], recurrent[way], precision=lax.Precision.HIGHEST) for way in range(2)]
        keep_in, forget, candidate, out = jnp.split(drive + jnp.stack(recurred), 4, axis=-1)
        cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(keep_in) * jnp.tanh(candidate)
        hidden = jax.nn.sigmoid(out) * jnp.tanh(cell)
        return (hidden, cell), hidden

    nothing = jnp.zeros((*driven.shape[1:3], recurrent.shape[1]), driven.dtype)
    return lax.scan(step, (nothing, nothing), driven)[1]


# The weights' gradient is one product over all steps, instead of one in each of them, added up.
_recurrence = jax.custom_vjp(_unrolled)


def _recurrence_forward(recurrent: Array, driven: Array) -> tuple[Array, tuple[Array, Callable]]:
    hidden, pull_back = jax.vjp(functools.partial(_unrolled, recurrent), driven)
    return hidden, (hidden, pull_back)


def _recurrence_backward(kept: tuple[Array, Callable], ascent: Array) -> tuple[Array, Array]:
    hidden, pull_back = kept
    (gates,) = pull_back(ascent)
    before = jnp.concatenate([jnp.zeros_like(hidden[:1]), hidden[:-1]])
    return jnp.einsum("twbh,twbg->whg", before, gates, precision=lax.Precision.HIGHEST), gates


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)


def _pieces(x: Float[Array, "b t h"]) -> Float[Array, "_ u h"]:
    """Cut sequences into pieces, which become examples of the batch; zeros fill up the last."""
    b, length, features = x.shape
    stride = LONGEST // 2
    count = math.ceil(length / stride)
    halves = jnp.pad(x, [(0, 0), (0, (count + 1) * stride - length), (0, 0)]).reshape(b, count + 1, stride, features)
    return jnp.concatenate([halves[:, :-1], halves[:, 1:]], axis=2).reshape(b * count, LONGEST, features)


def _joined(pieces: Float[Array, "_ u h"], b: int, lengths: Lengths | None) -> Float[Array, "b t h"]:
    """Undo `_pieces`: of each piece the middle half, of the first all before it and of the last all after it too."""
    pieces = pieces.reshape(b, -1, *pieces.shape[1:])
    edge = LONGEST // 4
    if lengths is not None:  # where sequences end earlier, what follows the last middle is of their own last piece
        last = jnp.where(lengths > LONGEST, -(-lengths // (LONGEST // 2)) - 1, 0)
        following = (jnp.arange(pieces.shape[1]) == last[:, None] + 1)[..., None, None]
        ends = jnp.roll(pieces[:, :, -edge:], 1, axis=1)
        middles = jnp.where(following, ends, pieces[:, :, edge : 2 * edge])
        pieces = pieces.at[:, :, edge : 2 * edge].set(middles)
    middle = pieces[:, :, edge:-edge].reshape(b, -1, pieces.shape[-1])
    return jnp.concatenate([pieces[:, 0, :edge], middle, pieces[:, -1, -edge:]], axis=1)


def _two_biases(fan: int) -> Initializer:
    """Return the initialiser of the sum of the two biases that PyTorch keeps."""
    drawn = torch_uniform(fan)
    return lambda key, shape, dtype=jnp.float32: sum(drawn(half, shape, dtype) for half in jax.random.split(key))
