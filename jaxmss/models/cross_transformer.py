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
from jaxmss.models.demucs_convolutions import Projection, torch_attention_uniform, torch_uniform
from jaxmss.models.demucs_layers import GroupNorm, gelu
from jaxmss.models.devices import drop
from jaxmss.models.layers import Lengths
from jaxmss.models.local_attention import NEVER
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
        self,
        x: Float[Array, "b n f h"],
        xt: Float[Array, "b t h"],
        frames: Lengths | None,
        steps: Lengths | None,
        train: bool,
    ) -> tuple[Float[Array, "b n f h"], Float[Array, "b t h"]]:
        """Let the frames and frequencies of `x` and the steps of `xt` attend to their own and to the other branch.

        Where examples end earlier, only so many `frames` and `steps` count.
        """
        b, n, f, outside = x.shape
        tokens = None if frames is None else frames * f
        inside = self.config.width or outside
        x = x.reshape(b, n * f, outside)
        if self.config.width:
            x, xt = _linear(inside, self.dtype, "widen")(x), _linear(inside, self.dtype, "widen_t")(xt)
        x = _layer_norm("norm_in")(x).astype(self.dtype) + _positions_2d(n, f, inside).astype(self.dtype)
        xt = _layer_norm("norm_in_t")(xt).astype(self.dtype) + _positions(xt.shape[1], inside).astype(self.dtype)

        layer = nn.remat(Layer, static_argnums=(5,)) if self.remat else Layer
        for number in range(self.config.layers):
            spectral, temporal = (layer(self.config, self.dtype, name=f"layer{t}_{number}") for t in ("", "_t"))
            if number % 2 == 0:
                x, xt = spectral(x, None, tokens, None, train), temporal(xt, None, steps, None, train)
            else:
                x, xt = spectral(x, xt, tokens, steps, train), temporal(xt, x, steps, tokens, train)

        if self.config.width:
            x, xt = _linear(outside, self.dtype, "narrow")(x), _linear(outside, self.dtype, "narrow_t")(xt)
        return x.reshape(b, n, f, outside), xt


class Layer(nn.Module):
    """Attention and a feed-forward part, each after a norm and scaled, and a norm of all.

    Attributes:
      config: of the transformer.
      dtype: of the products.
    """

    config: Transformer
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Tokens, other: Tokens | None, lengths: Lengths | None, others: Lengths | None, train: bool
    ) -> Tokens:
        """Let `x` attend to `other`, or to itself; `lengths` and `others` tell how many tokens of each count."""
        features = x.shape[-1]
        dropout = self.config.dropout if train and self.has_rng("dropout") else 0.0

        def thinned(y: Tokens) -> Tokens:
            return drop(y, self.make_rng("dropout"), dropout) if dropout else y

        queries = _layer_norm("norm1")(x).astype(self.dtype)
        memory = queries if other is None else _layer_norm("norm_other")(other).astype(self.dtype)
        counted = lengths if other is None else others
        attended = Attention(self.config, self.dtype, name="attention")(queries, memory, counted, train)
        x = x + self._scaled("scale1", thinned(attended))

        hidden = int(features * self.config.hidden_scale)
        y = _linear(hidden, self.dtype, "linear1")(_layer_norm("norm2")(x).astype(self.dtype))
        y = _linear(features, self.dtype, "linear2")(thinned(gelu(y)))
        x = x + self._scaled("scale2", thinned(y))
        return GroupNorm(dtype=self.dtype, name="norm_out")(x, lengths)

    def _scaled(self, name: str, x: Tokens) -> Tokens:
        return x * self.param(name, nn.initializers.constant(LAYER_SCALE), x.shape[-1:]).astype(self.dtype)


class Attention(nn.Module):
    """Attention of several heads; attributes as in `Layer`."""

    config: Transformer
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens, memory: Tokens, lengths: Lengths | None, train: bool) -> Tokens:
        """Let each token of `x` attend to all of `memory`, or to the first `lengths`."""
        features, heads = x.shape[-1], self.config.heads
        zeros = nn.initializers.zeros

        def split(tokens: Tokens, name: str) -> Float[Array, "d b _ _"]:
            projected = Projection(features, self.dtype, torch_attention_uniform, zeros, name=name)(tokens)
            return projected.reshape(*tokens.shape[:2], heads, -1).transpose(2, 0, 1, 3)

        query, key, value = split(x, "query"), split(memory, "key"), split(memory, "value")
        dropout = self.config.dropout if train and self.has_rng("dropout") else 0.0
        rng = self.make_rng("dropout") if dropout else None
        scale = 1 / math.sqrt(features // heads)

        def attend(head: tuple[Array, Array, Array, Array]) -> Array:
            number, query, key, value = head
            logits = jnp.einsum("bsh,bth->bst", query * scale, key, precision=lax.Precision.HIGHEST)
            logits = logits.astype(jnp.float32)
            if lengths is not None:
                counts = jnp.arange(key.shape[1]) < lengths[:, None]
                logits = jnp.where(counts[:, None], logits, NEVER)
            weights = jnp.exp(logits - lax.stop_gradient(logits.max(-1, keepdims=True)))
            total = weights.sum(-1, keepdims=True)
            if rng is not None:
                weights = drop(weights, jax.random.fold_in(rng, number), dropout)
            mixed = jnp.einsum("bst,bth->bsh", weights.astype(self.dtype), value, precision=lax.Precision.HIGHEST)
            return (mixed / total).astype(self.dtype)  # cheaper here than for every weight

        # one head at a time, and anew in the backward pass: the weights of all of them would be hundreds of megabytes
        mixed = lax.map(jax.checkpoint(attend, prevent_cse=False), (jnp.arange(heads), query, key, value))
        mixed = mixed.transpose(1, 2, 0, 3).reshape(x.shape)
        return Projection(features, self.dtype, torch_uniform, zeros, name="out")(mixed)


def _linear(features: int, dtype: DTypeLike, name: str) -> Projection:
    """Return a linear layer, initialised as PyTorch's."""
    return Projection(features, dtype, torch_uniform, name=name)


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
