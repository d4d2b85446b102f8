"""The attention of Demucs' residual branches: by content alone, with a preference for what is near."""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxmss.models.demucs_convolutions import Projection, rescale, rescaled_uniform
from jaxmss.models.layers import Lengths
from jaxmss.typing import Array, DTypeLike, Float

HEADS = 4
DECAYS = 4
NEVER = -1e9  # logit of what does not exist: finite, for those that have nothing to attend to


class LocalAttention(nn.Module):
    """Attention whose weights decay with the distance, as fast as each query wants, added to the input.

    Hybrid Demucs, section 3.2: of the logits of query `s` and key `t`, ``slope_s * |t - s|`` is taken off. No position
    attends to itself, nor to what comes after the first ``lengths`` where they are given.

    Attributes:
      dtype: of the products; logits and weights are float32.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t h"], lengths: Lengths | None = None) -> Float[Array, "b t h"]:
        """Map each sequence to one of the same shape."""
        b, length, features = x.shape
        query, key, content = (
            Projection(features, self.dtype, name=name)(x).reshape(b, length, HEADS, -1)
            for name in ("query", "key", "content")
        )
        # before training, all decays are slow
        draw = functools.partial(rescaled_uniform, gain=0.01)
        bias_init = nn.initializers.constant(-2.0 / rescale(features, gain=0.01))
        decay = Projection(HEADS * DECAYS, self.dtype, draw, bias_init, name="decay")(x)
        decay = jax.nn.sigmoid(decay.astype(jnp.float32)).reshape(b, length, HEADS, DECAYS)
        slope = decay @ (jnp.arange(1, DECAYS + 1) / (2 * math.sqrt(DECAYS)))  # b s heads

        positions = jnp.arange(length)
        distance = jnp.abs(positions[:, None] - positions)
        logits = jnp.einsum("bsdh,btdh->bdst", query, key, precision=lax.Precision.HIGHEST).astype(jnp.float32)
        logits = logits / math.sqrt(features // HEADS) - slope.swapaxes(1, 2)[..., None] * distance
        logits = jnp.where(distance == 0, -100.0, logits)
        if lengths is not None:
            logits = jnp.where((positions < lengths[:, None])[:, None, None], logits, NEVER)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        result = jnp.einsum("bdst,btdh->bsdh", weights, content, precision=lax.Precision.HIGHEST)
        return x + Projection(features, self.dtype, name="projection")(result.reshape(b, length, features))
