"""The networks, and the registry of architectures. The only folder that imports flax."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp

from jaxmss.config import BYTESEP_FULLBAND, BYTESEP_SUBBAND, ResUNetConfig
from jaxmss.errors import InputError, suggest
from jaxmss.models.cws_presunet import CWSPResUNet

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
ARCHITECTURES: dict[str, ResUNetConfig] = {
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
}


def architecture(name: str) -> ResUNetConfig:
    """Return the configuration of a named architecture, or raise `InputError` that suggests one."""
    if name not in ARCHITECTURES:
        raise InputError(f"There is no architecture {name!r}{suggest(name, ARCHITECTURES)}")
    return ARCHITECTURES[name]


def build(config: ResUNetConfig, dtype: jnp.dtype = jnp.float32, remat: bool = False) -> CWSPResUNet:
    """Return the network of `config`: a flax module from mixture (b, c, t) to stems (b, j, c, t)."""
    return CWSPResUNet(config, dtype, remat)
