"""What tells the published networks apart, and their six sets of values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Architecture:
    """One network of the family. Every field may be overridden in `make_twin`.

    Attributes:
        sources: names of the stems, in the order of the output.
        channels: audio channels.
        subbands: PQMF subbands, 1 (none), 2, 4 or 8.
        n_fft, hop: of the STFT, in subband samples. `n_fft / 2` must be a multiple of `2 ** len(widths)`.
        widths: features of the encoder levels, from the top; the decoder mirrors them.
        blocks: residual blocks per level (MobileNet blocks stand alone: 1).
        bottleneck_levels: levels of `blocks` blocks at the deepest width, without pooling.
        head_blocks: residual blocks at width `widths[0]` before the last 1x1 convolution (MobileNet: 1).
        head_per_source: one head for each source (`bass_blocks`, ...) in place of one head with maps for all of them.
        block: "plain"; "abn", whose second norm is an in-place activated batch norm; or "mobile".
        last_pool: (time, frequency) pooling of the deepest level; all others pool (2, 2).
        upsampling: "crop" is a 3x3 transposed convolution of stride 2 less its last row and column; "stride" one whose
            kernel is its stride; "nearest" repeats, then convolves 1x1.
        lettered_bottleneck: names `conv_block7a`, `conv_block7b`, ... in place of `conv_block7`, `conv_block8`, ...
        decoder_momentum: share of the new value in the running statistics of the decoder's own `bn1`.
        eps: floor of the squared magnitude.
        tail_padding: samples of silence appended before the analysis and cut after the synthesis.
        map_major: maps of one head are ordered (m c s); otherwise (j c m s).
        tanh_phase, tanh_residual: tanh on the phase maps P_r and P_i, and on the residual map Q.
    """

    sources: tuple[str, ...] = ("vocals",)
    channels: int = 2
    subbands: int = 4
    n_fft: int = 512
    hop: int = 110
    widths: tuple[int, ...] = (32, 64, 128, 256, 384, 384)
    blocks: int = 4
    bottleneck_levels: int = 4
    head_blocks: int = 4
    head_per_source: bool = False
    block: Literal["plain", "abn", "mobile"] = "plain"
    last_pool: tuple[int, int] = (2, 2)
    upsampling: Literal["crop", "stride", "nearest"] = "crop"
    lettered_bottleneck: bool = False
    decoder_momentum: float = 0.1
    eps: float = 1e-8
    tail_padding: int = 0
    map_major: bool = True
    tanh_phase: bool = False
    tanh_residual: bool = False


_CWS = Architecture()
_BYTESEP = Architecture(
    last_pool=(1, 2),
    upsampling="stride",
    lettered_bottleneck=True,
    decoder_momentum=0.01,
    eps=1e-10,
    tail_padding=64,
    map_major=False,
    tanh_phase=True,
    tanh_residual=True,
)

ARCHITECTURES: dict[str, Architecture] = {
    "cws-vocals": replace(_CWS, blocks=8),
    "cws-joint": replace(_CWS, sources=("bass", "drums", "other"), head_per_source=True),
    "cws-small": replace(_CWS, blocks=1, head_blocks=1),
    "resunet143-subband": _BYTESEP,
    "resunet143-ismir2021": replace(
        _BYTESEP, subbands=1, n_fft=2048, hop=441, block="abn", tail_padding=0, tanh_residual=False
    ),
    "mobilenet-subband": replace(
        _BYTESEP,
        widths=(32, 64, 64, 64, 64, 64),
        blocks=1,
        bottleneck_levels=1,
        head_blocks=1,
        block="mobile",
        upsampling="nearest",
        lettered_bottleneck=False,
    ),
}
