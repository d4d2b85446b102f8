"""Where each parameter of a network stands in its published PyTorch checkpoint."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Set

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxmss.config import ResUNetConfig
from jaxmss.errors import CheckpointError
from jaxmss.typing import Variables

Path = tuple[str, ...]

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# constants of the signal processing and counters, which published files carry beside the parameters
_CONSTANT = re.compile(r"(^|\.)(f_helper|stft|istft|pqmf|wav_spec_loss|l1loss)\.|\.num_batches_tracked$")


def from_state_dict(
    state: Mapping[str, np.ndarray], template: Variables, config: ResUNetConfig, file: str
) -> Variables:
    """Arrange a published `state_dict` as the variables of our network, in float32.

    `template` is the tree of shapes that the variables must have. A common prefix of all names is dropped; constants
    are skipped. Raises `CheckpointError` that lists what is missing, unknown or of another shape.
    """
    leaves = flatten_dict(template)
    names = {path: torch_names(path, leaf.shape, config) for path, leaf in leaves.items()}
    expected = {name for group in names.values() for name in group}
    state = {name: array for name, array in _without_prefix(state, expected).items() if not _CONSTANT.search(name)}

    arranged, misshapen = {}, []
    for path, group in names.items():
        arrays = [_transposed(np.asarray(state[name], np.float32), path, config) for name in group if name in state]
        stacked = "rest" in path
        shape = leaves[path].shape[1:] if stacked else leaves[path].shape
        if any(array.shape != shape for array in arrays):
            misshapen += [f"{name} {state[name].shape}" for name in group if name in state]
        elif len(arrays) == len(group):
            arranged[path] = np.stack(arrays) if stacked else arrays[0]

    check_names(file, expected, state.keys(), misshapen)
    return unflatten_dict(arranged)


def check_names(file: str, expected: Set[str], found: Set[str], misshapen: Collection[str]) -> None:
    """Raise `CheckpointError` that lists what is missing, unknown or of another shape in a file's `state_dict`."""
    problems = {"missing": expected - found, "unknown": found - expected, "of another shape": misshapen}
    if any(problems.values()):
        told = "; ".join(f"{kind}: {_listed(names)}" for kind, names in problems.items() if names)
        raise CheckpointError(f"{file} does not hold the parameters of this architecture; {told}")


def torch_names(path: Path, shape: tuple[int, ...], config: ResUNetConfig) -> tuple[str, ...]:
    """Return the published names of the leaf at `path`: one, or one for each of the scanned blocks it stacks."""
    _, _, level, *inner = path
    leaf = _LEAVES[inner.pop()]
    modules = _modules(level, inner, config)
    if "first" in inner:
        modules = modules[:1]
    elif "rest" in inner:
        modules = modules[len(modules) - shape[0] :]
    layer = [name for name in inner if name not in ("blocks", "first", "rest")]
    if config.absolute_gain:
        layer = ["abn2" if name == "bn2" else name for name in layer]
    return tuple(".".join([module, *layer, leaf]) for module in modules)


def _modules(level: str, inner: list[str], config: ResUNetConfig) -> list[str]:
    """Return the published names of the modules of one level: its blocks, or the level itself."""
    cws = config.maps.order == "map-channel-subband"
    mobilenet = config.block == "mobilenet"
    blocks = range(1, config.blocks + 1)
    kind, number = re.fullmatch(r"([a-z]+)[_]?(.*)", level).groups()  # type: ignore[union-attr]
    if kind == "encoder":
        return [f"encoder_block{number}.conv_block{'' if mobilenet else i}" for i in blocks]
    if kind == "bottleneck":
        first = len(config.widths) + 1
        if mobilenet:
            return [f"conv_block{first}"]
        stages = [
            f"conv_block{first + i}" if cws else f"conv_block{first}{'abcd'[i]}"
            for i in range(config.bottleneck_levels)
        ]
        return [f"{stage}.conv_block{i}" for stage in stages for i in blocks]
    if kind == "decoder":
        stage = f"decoder_block{number}"
        return [f"{stage}.conv_block{i + 1}" for i in blocks] if "blocks" in inner else [stage]
    if kind == "head":
        stem = f"{number}_blocks.0" if config.separate_heads else "after_conv_block1"
        return [stem if mobilenet else f"{stem}.conv_block{i}" for i in range(1, config.head_blocks + 1)]
    if kind == "maps":
        return [f"{number}_blocks.1" if config.separate_heads else "after_conv2"]
    return [level]  # bn0


def _transposed(array: np.ndarray, path: Path, config: ResUNetConfig) -> np.ndarray:
    """Turn a kernel (out, in, frames, bins) into (bins, frames, in, out)."""
    if array.ndim != 4:
        return array
    upsample = path[2].startswith("decoder") and path[3] == "conv1" and config.upsampling != "nearest"
    return array.transpose((3, 2, 0, 1) if upsample else (3, 2, 1, 0))


def _without_prefix(state: Mapping[str, np.ndarray], expected: set[str]) -> dict[str, np.ndarray]:
    """Drop what stands before every parameter's name, such as ``model.``, judged by the input norm's."""
    anchors = [name for name in state if name.endswith("bn0.weight")]
    prefix = anchors[0].removesuffix("bn0.weight") if len(anchors) == 1 else ""
    return {name.removeprefix(prefix): array for name, array in state.items()}


def _listed(names: Collection[str]) -> str:
    first = ", ".join(sorted(names)[:10])
    return first + (f" and {len(names) - 10} more" if len(names) > 10 else "")
