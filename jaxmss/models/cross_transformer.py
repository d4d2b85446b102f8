"""The transformer between the two branches of Hybrid Transformer Demucs.

Rouard, Massa, Défossez, ICASSP 2023, figure 1: layers of self-attention and of attention to the other branch in turns.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmss.demucs_config import Transformer
from jaxmss.models.demucs_convolutions import Projection
from jaxmss.models.demucs_layers import GroupNorm
from jaxmss.typing import Array, DTypeLike, Float

MAX_PERIOD = 10000.0  # of the sines of positions
LAYER_SCALE = 1e-4  # with which each part of a layer is added before training

Tokens = Float[Array, "b _ h"]


class CrossTransformer(nn.Module):
    """All layers of both branches.

    Attributes:
      config: of the transformer.
      dtype: of the products; norms and softmax are float32.
      remat: whether to trade computation for memory in the backward pass.
    """

    config: Transformer
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n f h"], xt: Float[Array, "b t h"], train: bool
    ) -> tuple[Float[Array, "b n f h"], Float[Array, "b t h"]]:
        """Let the frames and frequencies of `x` and the steps of `xt` attend to their own and to the other branch."""
        b, n, f, outside = x.shape
        inside = self.config.width or outside
        x = x.reshape(b, n * f, outside)
        if self.config.width:
            x, xt = self._projection(inside, "widen")(x), self._projection(inside, "widen_t")(xt)
        x = _layer_norm("norm_in")(x).astype(self.dtype) + _positions_2d(n, f, inside).astype(self.dtype)
        xt = _layer_norm("norm_in_t")(xt).astype(self.dtype) + _positions(xt.shape[1], inside).astype(self.dtype)

        layer = nn.remat(Layer, static_argnums=(3,)) if self.remat else Layer
        for number in range(self.config.layers):
            spectral, temporal = (layer(self.config, self.dtype, name=f"layer{t}_{number}") for t in ("", "_t"))
            others = (None, None) if number % 2 == 0 else (xt, x)
            x, xt = spectral(x, others[0], train), temporal(xt, others[1], train)

        if self.config.width:
            x, xt = self._projection(outside, "narrow")(x), self._projection(outside, "narrow_t")(xt)
        return x.reshape(b, n, f, outside), xt

    def _projection(self, features: int, name: str) -> Projection:
        return Projection(features, self.dtype, torch_uniform, torch_uniform, name=name)


class Layer(nn.Module):
    """Attention and a feed-forward part, each after a norm and scaled, and a norm of all.

    Attributes:
      config: of the transformer.
      dtype: of the products.
    """

    config: Transformer
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens, other: Tokens | None, train: bool) -> Tokens:
        """Let `x` attend to `other`, or to itself."""
        features = x.shape[-1]
        drop = nn.Dropout(self.config.dropout, deterministic=not (train and self.has_rng("dropout")))
        queries = _layer_norm("norm1")(x).astype(self.dtype)
        memory = queries if other is None else _layer_norm("norm_other")(other).astype(self.dtype)
        attended = Attention(self.config, self.dtype, name="attention")(queries, memory, train)
        x = x + self._scaled("scale1", drop(attended))

        hidden = self._dense(int(features * self.config.hidden_scale), "linear1")(
            _layer_norm("norm2")(x).astype(self.dtype)
        )
        y = self._dense(features, "linear2")(drop(jax.nn.gelu(hidden, approximate=False)))
        x = x + self._scaled("scale2", drop(y))
        return GroupNorm(dtype=self.dtype, name="norm_out")(x)

    def _scaled(self, name: str, x: Tokens) -> Tokens:
        return x * self.param(name, nn.initializers.constant(LAYER_SCALE), x.shape[-1:]).astype(self.dtype)

    def _dense(self, features: int, name: str) -> Projection:
        return Projection(features, self.dtype, torch_uniform, torch_uniform, name=name)


class Attention(nn.Module):
    """Attention of several heads; attributes as in `Layer`."""

    config: Transformer
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens, memory: Tokens, train: bool) -> Tokens:
        """Let each token of `x` attend to all of `memory`."""
        features, heads = x.shape[-1], self.config.heads
        xavier, zeros = nn.initializers.glorot_uniform(), nn.initializers.zeros

        def split(tokens: Tokens, name: str) -> Float[Array, "b _ d _"]:
            projected = Projection(features, self.dtype, xavier, zeros, name=name)(tokens)
            return projected.reshape(*tokens.shape[:2], heads, -1)

        query, key, value = split(x, "query"), split(memory, "key"), split(memory, "value")
        logits = jnp.einsum("bsdh,btdh->bdst", query, key, precision=lax.Precision.HIGHEST).astype(jnp.float32)
        weights = jax.nn.softmax(logits / math.sqrt(features // heads), axis=-1).astype(self.dtype)
        weights = nn.Dropout(self.config.dropout, deterministic=not (train and self.has_rng("dropout")))(weights)
        mixed = jnp.einsum("bdst,btdh->bsdh", weights, value, precision=lax.Precision.HIGHEST)
        return Projection(features, self.dtype, torch_uniform, zeros, name="out")(mixed.reshape(x.shape))


def torch_uniform(key, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Initialise as PyTorch's linear layers: uniform within 1/sqrt(fan); a bias takes its own width for it."""
    bound = 1 / math.sqrt(shape[0])
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def _layer_norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=jnp.float32, name=name)


def _positions(count: int, features: int) -> Float[np.ndarray, "t h"]:
    """Return cosines and sines of the positions, of periods that rise to `MAX_PERIOD`."""
    half = features // 2
    phase = np.arange(count)[:, None] / MAX_PERIOD ** (np.arange(half) / (half - 1))
    return np.concatenate([np.cos(phase), np.sin(phase)], axis=-1).astype(np.float32)


def _positions_2d(frames: int, frequencies: int, features: int) -> Float[np.ndarray, "_ h"]:
    """Return, frame by frame, sines and cosines in turns: of the frame in the first half, of the bin in the second."""
    half = features // 2
    rates = np.exp(np.arange(0, half, 2) * -(math.log(MAX_PERIOD) / half))

    def waves(count: int) -> np.ndarray:
        phase = np.arange(count)[:, None] * rates
        return np.stack([np.sin(phase), np.cos(phase)], axis=-1).reshape(count, half)

    table = np.empty((frames, frequencies, features), np.float32)
    table[..., :half] = waves(frames)[:, None]
    table[..., half:] = waves(frequencies)
    return table.reshape(-1, features)
