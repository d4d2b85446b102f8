"""Where each parameter of a Demucs network stands in the files of the package `demucs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxmss.checkpoints.torch_names import check_names
from jaxmss.demucs_config import DemucsConfig, HybridDemucsConfig, ResidualBranch
from jaxmss.typing import Variables

Config = DemucsConfig | HybridDemucsConfig

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_ATTENTION = {"query": "query", "key": "key", "content": "content", "decay": "query_decay", "projection": "proj"}
_TRANSFORMER = {
    "widen": "channel_upsampler",
    "widen_t": "channel_upsampler_t",
    "narrow": "channel_downsampler",
    "narrow_t": "channel_downsampler_t",
}
_PROJECTED = ("query", "key", "value")  # in the order in which PyTorch stacks them


class Tensors(NamedTuple):
    """The published tensors that one of our leaves is made of, and what makes it of them."""

    names: tuple[str, ...]
    arrange: Callable[..., np.ndarray]


def from_demucs_state(state: Mapping[str, np.ndarray], template: Variables, config: Config, file: str) -> Variables:
    """Arrange a published network's parameters as the variables of ours, in float32.

    `template` is the tree of shapes that the variables must have. Raises `CheckpointError` that lists what is missing,
    unknown or of another shape.
    """
    leaves = flatten_dict(template)
    tensors = {path: demucs_tensors(path, config) for path in leaves}
    arranged, misshapen = {}, []
    for path, (names, arrange) in tensors.items():
        arrays = [np.asarray(state[name], np.float32) for name in names if name in state]
        if len(arrays) < len(names):
            continue  # told as missing
        try:
            arranged[path] = _reshaped(arrange(*arrays), leaves[path].shape)
        except ValueError:
            misshapen += [f"{name} {state[name].shape}" for name in names]
    check_names(file, {name for names, _ in tensors.values() for name in names}, state.keys(), misshapen)
    return unflatten_dict(arranged)


def _reshaped(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return `array` in `shape`, from which only axes of length 1 may differ: those of kernels that span one axis."""
    if [length for length in array.shape if length != 1] != [length for length in shape if length != 1]:
        raise ValueError
    return np.ascontiguousarray(array.reshape(shape))


def demucs_tensors(path: tuple[str, ...], config: Config) -> Tensors:
    """Return the published tensors of the leaf at `path`."""
    _, *inner, leaf = path
    if isinstance(config, DemucsConfig):
        return _of_level(inner, leaf, config, _in_time(inner, config))
    _, *inner = inner  # both U-Nets and what is between them
    if not inner:
        return _as_it_is("freq_emb.embedding.weight")
    if inner[0] == "transformer":
        return _of_transformer(inner[1:], leaf)
    return _of_level(inner, leaf, config, _in_hybrid(inner))


def _in_time(inner: list[str], config: DemucsConfig) -> dict[str, str]:
    """Return the published names of a level's parts, which are numbered in their order: norms and activations too."""
    side = inner[0].split("_")[0]
    branches = config.residual.where in (side, "both")
    if side == "encoder":
        rewrite = 3 + branches
        return {"conv": "0", "norm1": "1", "residual": "3", "rewrite": f"{rewrite}", "norm2": f"{rewrite + 1}"}
    residual = 3 if config.rewrite else 0
    conv = residual + branches
    return {"rewrite": "0", "norm1": "1", "residual": f"{residual}", "conv": f"{conv}", "norm2": f"{conv + 1}"}


def _in_hybrid(inner: list[str]) -> dict[str, str]:
    """Return the published names of a level's parts."""
    conv = "conv" if "encoder" in inner[0] else "conv_tr"
    return {"conv": conv, "rewrite": "rewrite", "residual": "dconv", "norm1": "norm1", "norm2": "norm2"}


def _of_level(inner: list[str], leaf: str, config: Config, parts: Mapping[str, str]) -> Tensors:
    """Return the tensors of ``encoder_2.conv.kernel``, ``decoder_0.band_1.residual.branch_0_norm1.scale`` and alike."""
    level, *layer = inner
    side, number = level.split("_")
    prefix = f"{side}.{number}"
    if layer and layer[0].startswith("band_"):
        prefix += f".layers.{layer.pop(0).removeprefix('band_')}"
    if layer and layer[0] == "enlarge":
        layer.pop(0)
    part = layer.pop(0) if layer else "conv"  # the last temporal encoder may be no more than that
    prefix += f".{parts[part]}"
    if part == "residual":
        return _of_branch(prefix, layer, leaf, config.residual, _level_number(side, int(number), config))
    return Tensors((f"{prefix}.{_LEAVES[leaf]}",), partial(_kernel, transposed=part == "conv" and "decoder" in side))


def _level_number(side: str, number: int, config: Config) -> int:
    """Return the level of an encoder or decoder, counted from the outermost; decoders are numbered from within."""
    if "encoder" in side:
        return number
    levels = config.depth
    if isinstance(config, HybridDemucsConfig) and side == "tdecoder" and config.merging_level is not None:
        levels = config.merging_level + 1
    return levels - 1 - number


def _of_branch(prefix: str, layer: list[str], leaf: str, residual: ResidualBranch, level: int) -> Tensors:
    """Return the tensors of a residual branch, whose parts are numbered in their order: activations too."""
    name = [*layer, leaf] if leaf.startswith("branch_") else layer  # its scale is a leaf beside its layers
    _, branch, part = name[0].split("_")
    lstm, attention = level >= residual.lstm_from, level >= residual.attention_from
    after = 3 + lstm + attention
    places = {"conv1": 0, "norm1": 1, "lstm": 3, "attention": 3 + lstm, "conv2": after, "norm2": after + 1}
    prefix = f"{prefix}.layers.{branch}"
    if part == "scale":
        return _as_it_is(f"{prefix}.{after + 3}.scale")
    prefix += f".{places[part]}"
    if part == "lstm":
        return _of_lstm(prefix, layer[1:], leaf)
    if part == "attention":
        prefix += f".{_ATTENTION[layer[1]]}"
    return Tensors((f"{prefix}.{_LEAVES[leaf]}",), _kernel)


def _of_lstm(prefix: str, layer: list[str], leaf: str) -> Tensors:
    """Return the tensors of an LSTM: both directions of a layer are one leaf, and its two biases are added up."""
    if not layer:
        return Tensors((f"{prefix}.linear.{_LEAVES[leaf]}",), _kernel)
    ways = [layer[0].replace("layer_", "l") + way for way in ("", "_reverse")]
    if leaf == "bias":
        names = tuple(f"{prefix}.lstm.bias_{gate}_{way}" for way in ways for gate in ("ih", "hh"))
        return Tensors(names, lambda *biases: np.stack([biases[0] + biases[1], biases[2] + biases[3]]))
    gate = {"inputs": "ih", "recurrent": "hh"}[leaf]
    return Tensors(tuple(f"{prefix}.lstm.weight_{gate}_{way}" for way in ways), lambda *both: np.stack(both).mT)


def _of_transformer(layer: list[str], leaf: str) -> Tensors:
    """Return the tensors of ``layer_t_1.attention.query.kernel``, ``norm_in.scale``, ``widen_t.bias`` and alike."""
    module, *parts = layer
    if module in _TRANSFORMER:
        return Tensors((f"{_TRANSFORMER[module]}.{_LEAVES[leaf]}",), _kernel)
    prefix = "crosstransformer"
    if not module.startswith("layer"):
        return _as_it_is(f"{prefix}.{module}.{_LEAVES[leaf]}")
    branch, number = module.rsplit("_", 1)
    prefix += f".{branch.replace('layer', 'layers')}.{number}"
    if leaf in ("scale1", "scale2"):
        return _as_it_is(f"{prefix}.gamma_{leaf[-1]}.scale")
    crossed = int(number) % 2 == 1
    part, *parts = parts
    if part == "attention":
        return _of_attention(f"{prefix}.{'cross_attn' if crossed else 'self_attn'}", parts[0], leaf)
    if crossed:
        part = {"norm_other": "norm2", "norm2": "norm3"}.get(part, part)
    return Tensors((f"{prefix}.{part}.{_LEAVES[leaf]}",), _kernel)


def _of_attention(prefix: str, part: str, leaf: str) -> Tensors:
    if part == "out":
        return Tensors((f"{prefix}.out_proj.{_LEAVES[leaf]}",), _kernel)
    third = _PROJECTED.index(part)
    return Tensors((f"{prefix}.in_proj_{_LEAVES[leaf]}",), lambda stacked: np.split(stacked, 3)[third].T)


def _as_it_is(name: str) -> Tensors:
    return Tensors((name,), lambda tensor: tensor)


def _kernel(weight: np.ndarray, transposed: bool = False) -> np.ndarray:
    """Turn a kernel (out, in, taps...), of a transposed convolution (in, out, taps...), into (taps..., in, out)."""
    if weight.ndim == 1:
        return weight
    features = (0, 1) if transposed else (1, 0)
    taps = tuple(range(2, weight.ndim))
    return weight.transpose(*taps[::-1], *features)
