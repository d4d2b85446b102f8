"""The networks, and the registry of architectures. The only folder that imports flax."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmss.config import BYTESEP_FULLBAND, BYTESEP_SUBBAND, ResUNetConfig, SpleeterConfig
from jaxmss.demucs_config import DemucsConfig, HybridDemucsConfig, ResidualBranch, Transformer
from jaxmss.errors import InputError, suggest
from jaxmss.models.cws_presunet import CWSPResUNet
from jaxmss.models.demucs import Demucs
from jaxmss.models.hybrid_demucs import HybridDemucs
from jaxmss.models.spleeter import Spleeter
from jaxmss.typing import DTypeLike, Variables

_BYTESEP = ResUNetConfig(
    sources=("vocals",),
    tail_padding=True,
    magnitude_floor=1e-10,
    maps=BYTESEP_SUBBAND,
    last_pooling=(1, 2),
    upsampling="patch",
    decoder_norm_momentum=0.01,
)

# every architecture by name; a variant is `dataclasses.replace` of one of these
ARCHITECTURES: dict[str, Any] = {
    "cws-vocals": ResUNetConfig(sources=("vocals",), blocks=8),
    "cws-joint": ResUNetConfig(sources=("bass", "drums", "other"), separate_heads=True),
    "cws-small": ResUNetConfig(sources=("vocals",), blocks=1, head_blocks=1),
    "resunet143-subband": _BYTESEP,
    "resunet143-ismir2021": replace(
        _BYTESEP,
        subbands=1,
        tail_padding=False,
        n_fft=2048,
        hop=441,
        maps=BYTESEP_FULLBAND,
        absolute_gain=True,
    ),
    "mobilenet-subband": replace(
        _BYTESEP,
        block="mobilenet",
        widths=(32, 64, 64, 64, 64, 64),
        blocks=1,
        bottleneck_levels=1,
        head_blocks=1,
        upsampling="nearest",
        block_norm_momentum=0.1,
    ),
    "demucs": DemucsConfig(),
    "hdemucs": HybridDemucsConfig(),
    "htdemucs": HybridDemucsConfig(
        depth=4,
        residual=ResidualBranch("both", compression=8, scale=1e-3),
        transformer=Transformer(),
        segment=7.8,
    ),
}


def architecture(name: str) -> Any:
    """Return the configuration of a named architecture, or raise `InputError` that suggests one."""
    if name not in ARCHITECTURES:
        raise InputError(f"There is no architecture {name!r}{suggest(name, ARCHITECTURES)}")
    return ARCHITECTURES[name]


# which flax module a kind of config describes: audio (b, c, t) to stems (b, j, c, t)
NETWORKS: dict[type, type[nn.Module]] = {
    ResUNetConfig: CWSPResUNet,
    SpleeterConfig: Spleeter,
    DemucsConfig: Demucs,
    HybridDemucsConfig: HybridDemucs,
}


def build(config: Any, dtype: DTypeLike = jnp.float32, remat: bool = False) -> nn.Module:
    """Return the network of `config`, with bfloat16 inside or rematerialisation on request."""
    return NETWORKS[type(config)](config=config, dtype=dtype, remat=remat)


@functools.lru_cache(64)  # tracing a network takes half a second
def variable_shapes(config: Any) -> Variables:
    """Return the tree of shapes of a network's parameters and statistics, without computing any.

    It is kept, and is not to be changed.
    Raises `InputError` for a config whose fields do not fit together.
    """
    audio = jax.ShapeDtypeStruct((1, config.channels, config.sample_rate), jnp.float32)
    try:
        return jax.eval_shape(build(config).init, jax.random.key(0), audio)
    except (ArithmeticError, TypeError, ValueError) as error:  # as JAX tells of shapes that do not fit
        told = " ".join(str(error).split())[:200]
        raise InputError(f"No network can be built of this config, whose sizes do not fit together: {told}") from error
