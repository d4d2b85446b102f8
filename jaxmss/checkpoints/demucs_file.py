"""Read the files in which the package `demucs` keeps a trained network, and turn its arguments into a config of ours.

Such a file is a dict: the network's class, the arguments that it was built with, and its parameters, mostly in half
precision. What an argument is called and is worth where the file leaves it out is taken from version 4.1.0 of the
package: `demucs.states`, and the constructors of the three classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from jaxmss.checkpoints.pickle_data import Global
from jaxmss.checkpoints.torch_file import find_state_dict, read_torch_file
from jaxmss.config import from_json
from jaxmss.demucs_config import DemucsConfig, HybridDemucsConfig
from jaxmss.errors import CheckpointError, InputError

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class _Class:
    """One of the package's classes.

    Attributes:
      names: by which a file calls it.
      chosen: the arguments that our config has a field for, with their defaults.
      fixed: the arguments that must have this value, which is their default too.
      unread: the arguments that say nothing about a trained network.
      config: makes the fields of our config from the arguments.
    """

    names: tuple[str, ...]
    chosen: Arguments
    fixed: Arguments
    unread: frozenset[str]
    config: Callable[[Arguments], DemucsConfig | HybridDemucsConfig]


def read_demucs_file(file: Path, architecture: str) -> tuple[DemucsConfig | HybridDemucsConfig, dict[str, np.ndarray]]:
    """Return the config of the network in `file` and its parameters by their names there, without running its code.

    `architecture` is a name in `DEMUCS_CLASSES`. An argument that the package does not know is left out with a warning,
    as the package does: its network is one without.

    Raises:
      CheckpointError: for a file that is not one of the package, of another class, quantised, or of a network with an
        option that ours do not have.
    """
    contents = read_torch_file(file)
    if not isinstance(contents, dict) or not {"klass", "args", "kwargs", "state"} <= contents.keys():
        raise CheckpointError(f"{file}: is no network as the package demucs writes them; give its .th file")
    expected = DEMUCS_CLASSES[architecture]
    found = contents["klass"].name if isinstance(contents["klass"], Global) else "of no class"
    if found not in expected.names:
        fits = [name for name, known in DEMUCS_CLASSES.items() if found in known.names]
        remedy = f"convert it as {fits[0]!r}" if fits else f"choose from {', '.join(DEMUCS_CLASSES)}"
        raise CheckpointError(f"{file}: holds a network {found[:80]!r}, not {architecture!r}; {remedy}")
    state = contents["state"]
    if isinstance(state, dict) and "__quantized" in state:
        raise CheckpointError(
            f"{file}: holds quantised parameters, packed by DiffQ, which cannot be read; "
            "take the network that was not quantised, such as mdx instead of mdx_q"
        )
    try:
        config = _config(expected, _given(contents["args"], contents["kwargs"]))
    except InputError as error:
        raise CheckpointError(f"{file}: holds a network that cannot be built here: {error}") from error
    return config, find_state_dict(state, file)


def _given(positional: Any, named: Any) -> dict[str, Any]:
    """Return the arguments by name; only the sources, the first of each class, are ever given by position."""
    if not isinstance(positional, tuple | list) or not isinstance(named, dict) or len(positional) > 1:
        raise InputError("it was not built with named arguments")
    given = dict(named)
    if positional:
        given["sources"] = positional[0]
    if "sources" not in given:
        raise InputError("its 'sources' are missing")
    return given


def _config(kind: _Class, given: Arguments) -> DemucsConfig | HybridDemucsConfig:
    known = {"sources", *kind.chosen, *kind.fixed, *kind.unread}
    if unknown := [repr(name)[:80] for name in given if name not in known]:
        warnings.warn(f"arguments that demucs 4.1.0 does not know are left out: {', '.join(unknown)}", stacklevel=4)
    for name, value in given.items():
        if name in known - kind.unread:
            _check_plain(name, value)
    for name, value in kind.fixed.items():
        if given.get(name, value) != value:
            raise InputError(f"{name!r} (={given[name]!r}) is always {value!r} here")
    return kind.config({**kind.chosen, **given})


def _check_plain(name: str, value: Any) -> None:
    """Refuse what no config can hold, or no message can show: a list in a file may hold itself a thousand times."""
    items = value if isinstance(value, list | tuple) else [value]
    if len(items) > 100 or not all(map(_is_plain, items)):
        raise InputError(f"{name!r} is neither a number nor a name, nor a list of them")


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= 100
    return abs(value) < 1 << 53 if isinstance(value, int) else value is None or isinstance(value, float | Fraction)


def _demucs(a: Arguments) -> DemucsConfig:
    fields = _levels(a, a["dconv_lstm"], a["dconv_attn"])
    return from_json(DemucsConfig, {**fields, **{name: a[name] for name in ("rewrite", "normalize", "resample")}})


def _hdemucs(a: Arguments) -> HybridDemucsConfig:
    fields = _levels(a, a["dconv_lstm"], a["dconv_attn"])
    return from_json(HybridDemucsConfig, {**fields, **_spectral(a), "old_padding": a["hybrid_old"]})


def _htdemucs(a: Arguments) -> HybridDemucsConfig:
    transformer = {
        "layers": a["t_layers"],
        "heads": a["t_heads"],
        "width": a["bottom_channels"],
        "hidden_scale": _real(a["t_hidden_scale"]),
        "dropout": _real(a["t_dropout"]),
    }
    fields = _levels(a, a["depth"], a["depth"])  # no level has an LSTM or local attention
    return from_json(HybridDemucsConfig, {**fields, **_spectral(a), "transformer": transformer})


def _levels(a: Arguments, lstm_from: int, attention_from: int) -> dict[str, Any]:
    """Return the fields that all the family's configs share, as JSON holds them."""
    where = ("none", "encoder", "decoder", "both")
    return {
        "sources": _list(a["sources"]),
        "sample_rate": a["samplerate"],
        "channels": a["audio_channels"],
        "width": a["channels"],
        "growth": _whole(a["growth"]),
        "depth": a["depth"],
        "kernel": a["kernel_size"],
        "stride": a["stride"],
        "norm_from": a["norm_starts"],
        "norm_groups": a["norm_groups"],
        "residual": {
            "where": where[a["dconv_mode"]] if a["dconv_mode"] in range(4) else a["dconv_mode"],
            "depth": a["dconv_depth"],
            "compression": _whole(a["dconv_comp"]),
            "lstm_from": lstm_from,
            "attention_from": attention_from,
            "scale": _real(a["dconv_init"]),
        },
        "segment": _real(a["segment"]),
    }


def _spectral(a: Arguments) -> dict[str, Any]:
    """Return the fields of the spectral branch."""
    if not a["cac"] and a["wiener_iters"] != 0:  # complex spectra are never filtered
        raise InputError(f"'wiener_iters' (={a['wiener_iters']!r}) is always 0 here")
    return {
        "n_fft": a["nfft"],
        "time_stride": a["time_stride"],
        "output": "complex" if a["cac"] else "magnitude",
        "band_edges": _list(a["multi_freqs"] or []),
        "band_levels": a["multi_freqs_depth"],
        "embedding": _real(a["freq_emb"] or 0),
    }


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _real(value: Any) -> Any:
    return float(value) if type(value) in (int, Fraction) else value


def _list(value: Any) -> Any:
    return [_real(item) for item in value] if isinstance(value, list | tuple) else value


_ALL = {
    "audio_channels": 2,
    "growth": 2,
    "depth": 6,
    "kernel_size": 8,
    "stride": 4,
    "norm_starts": 4,
    "norm_groups": 4,
    "dconv_mode": 1,
    "dconv_depth": 2,
    "samplerate": 44100,
}
_BRANCHES_3 = {"dconv_comp": 4, "dconv_attn": 4, "dconv_lstm": 4, "dconv_init": 1e-4, "segment": 40}
_SPECTRAL = {
    "channels": 48,
    "nfft": 4096,
    "cac": True,
    "wiener_iters": 0,
    "multi_freqs": None,
    "freq_emb": 0.2,
    "time_stride": 2,
}
_SPECTRAL_FIXED = {
    "channels_time": None,
    "rewrite": True,
    "emb_scale": 10,
    "context": 1,
    "context_enc": 0,
}
_TRANSFORMER = {"bottom_channels": 0, "t_layers": 5, "t_heads": 8, "t_hidden_scale": 4.0, "t_dropout": 0.0}
_TRANSFORMER_FIXED = {
    "t_emb": "sin",
    "t_max_period": 10000.0,
    "t_weight_pos_embed": 1.0,
    "t_sin_random_shift": 0,
    "t_norm_in": True,
    "t_norm_first": True,
    "t_norm_out": True,
    "t_group_norm": False,
    "t_layer_scale": True,
    "t_gelu": True,
    "t_cross_first": False,
    "t_sparse_self_attn": False,
    "t_sparse_cross_attn": False,
    "use_train_segment": True,
}
# training alone, or other values of the fixed arguments, read these
_UNREAD = frozenset({"rescale"})
_SPECTRAL_UNREAD = _UNREAD | {"emb_smooth", "end_iters", "wiener_residual"}
_TRANSFORMER_UNREAD = _SPECTRAL_UNREAD | {
    *("t_weight_decay", "t_lr", "t_max_positions", "t_norm_in_group", "t_mask_type", "t_mask_random_seed"),
    *("t_cape_mean_normalize", "t_cape_augment", "t_cape_glob_loc_scale"),
    *("t_sparse_attn_window", "t_global_window", "t_sparsity", "t_auto_sparsity"),
}

# by what `jaxmss convert` calls them
DEMUCS_CLASSES: Mapping[str, _Class] = {
    "demucs": _Class(
        names=("demucs.demucs.Demucs",),
        chosen={**_ALL, **_BRANCHES_3, "channels": 64, "rewrite": True, "normalize": True, "resample": True},
        fixed={"lstm_layers": 0, "context": 1, "gelu": True, "glu": True},
        unread=_UNREAD,
        config=_demucs,
    ),
    "hdemucs": _Class(
        names=("demucs.hdemucs.HDemucs", "demucs.wdemucs.WDemucs"),
        chosen={**_ALL, **_BRANCHES_3, **_SPECTRAL, "multi_freqs_depth": 2, "hybrid_old": False},
        fixed={**_SPECTRAL_FIXED, "hybrid": True},
        unread=_SPECTRAL_UNREAD,
        config=_hdemucs,
    ),
    "htdemucs": _Class(
        names=("demucs.htdemucs.HTDemucs",),
        chosen={
            **_ALL,
            **_SPECTRAL,
            **_TRANSFORMER,
            "depth": 4,
            "multi_freqs_depth": 3,
            "dconv_comp": 8,
            "dconv_init": 1e-3,
            "segment": 10,
        },
        fixed={**_SPECTRAL_FIXED, **_TRANSFORMER_FIXED},
        unread=_TRANSFORMER_UNREAD,
        config=_htdemucs,
    ),
}
