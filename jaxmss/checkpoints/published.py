"""The published weights, by name: where each file comes from and what its authors measured.

What no public source known to us states is None: a hash or a size is never guessed. The sizes are those that bytesep's
own code checks for, and for Demucs those of the files, whose names end in the first digits of their hashes. The scores
are for the very file, in dB, museval's SDR as the median over the MUSDB18 test tracks (MUSDB18-HQ for `cws-*`): from
the paper for `cws-*`, from bytesep's README for the others. Demucs' networks were scored in the systems that they
belong to, not alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import quote

from jaxmss.demucs_config import STEMS

_CWS_PAPER = "Liu, Kong, Liu: CWS-PResUNet: Music Source Separation with Channel-wise Subband Phase-aware ResUNet, 2021"
_BYTESEP_PAPER = (
    "Kong, Cao, Liu, Choi, Wang: Decoupling Magnitude and Phase Estimation with Deep ResUNet for Music Source "
    "Separation, ISMIR 2021"
)
_DEMUCS_PAPER = "Défossez: Hybrid Spectrogram and Waveform Source Separation, MDX workshop at ISMIR 2021"
_TRANSFORMER_PAPER = "Rouard, Massa, Défossez: Hybrid Transformers for Music Source Separation, ICASSP 2023"


@dataclass(frozen=True)
class PublishedWeights:
    """One file of published weights.

    Attributes:
      name: what the command line calls it.
      architecture: the name of the architecture that the weights fit.
      url: where to fetch the file.
      page: where readers find the licence and what else the authors say.
      file_name: the file's name there.
      sources: the stems that the network makes, in its order.
      scores: the published SDR in dB of a stem; stems without a published score are absent.
      paper: where the system is described.
      code: the authors' repository.
      size: the length of the file in bytes, or None where nobody published it.
      md5: the file's MD5 hash in hexadecimal, or None where we have not seen the one that Zenodo shows.
      sha256: the file's SHA-256 hash in hexadecimal, or None.
      licence: the licence of the weights, or None where only the page states it.
    """

    name: str
    architecture: str
    url: str
    page: str
    file_name: str
    sources: tuple[str, ...]
    scores: Mapping[str, float]
    paper: str
    code: str
    size: int | None = None
    md5: str | None = None
    sha256: str | None = None
    licence: str | None = None


def _zenodo(record: int, file_name: str = "") -> str:
    """Return the page of a Zenodo record, which states licence and hash, or the address of a file in it."""
    page = f"https://zenodo.org/record/{record}"
    return f"{page}/files/{quote(file_name)}?download=1" if file_name else page


def _cws(name: str, file_name: str, sources: tuple[str, ...], scores: dict[str, float]) -> PublishedWeights:
    return PublishedWeights(
        name=name,
        architecture=name,
        url=_zenodo(5175846, file_name),
        page=_zenodo(5175846),
        file_name=file_name,
        sources=sources,
        scores=MappingProxyType(scores),
        paper=_CWS_PAPER,
        code="https://github.com/haoheliu/2021-ISMIR-MSS-Challenge-CWS-PResUNet",
    )


def _bytesep(
    architecture: str, record: int, file_name: str, source: str, score: float, size: int | None = None
) -> PublishedWeights:
    return PublishedWeights(
        name=f"{architecture}-{source}",
        architecture=architecture,
        url=_zenodo(record, file_name),
        page=_zenodo(record),
        file_name=file_name,
        sources=(source,),
        scores=MappingProxyType({source: score}),
        paper=_BYTESEP_PAPER,
        code="https://github.com/bytedance/music_source_separation",
        size=size,
    )


def _demucs(
    architecture: str, folder: str, signature: str, size: int, sha256: str, sources: tuple[str, ...] = STEMS
) -> PublishedWeights:
    file_name = f"{signature}-{sha256[:8]}.th"
    return PublishedWeights(
        name=signature,
        architecture=architecture,
        url=f"https://dl.fbaipublicfiles.com/demucs/{folder}/{file_name}",
        page="https://github.com/facebookresearch/demucs",
        file_name=file_name,
        sources=sources,
        scores=MappingProxyType({}),
        paper=_TRANSFORMER_PAPER if folder == "hybrid_transformer" else _DEMUCS_PAPER,
        code="https://github.com/facebookresearch/demucs",
        size=size,
        sha256=sha256,
        licence="MIT",
    )


# fmt: off
# Bass and drums of cws-joint have no published score: it was published for `other`, and they help it to train.
_ALL = (
    _cws("cws-vocals", "epoch=49-val_loss=0.0902_trimed.ckpt", ("vocals",), {"vocals": 8.92}),
    _cws("cws-joint", "epoch=33-val_loss=0.4293_trimed.ckpt", ("bass", "drums", "other"), {"other": 5.84}),
    _bytesep("resunet143-ismir2021", 5507029, "resunet143_ismir2021_vocals_8.9dB_350k_steps.pth", "vocals", 8.9),
    _bytesep("resunet143-ismir2021", 5507029, "resunet143_ismir2021_accompaniment_16.8dB_350k_steps.pth",
             "accompaniment", 16.8),
    _bytesep("resunet143-subband", 5804160, "resunet143_subbtandtime_vocals_8.7dB_500k_steps_v2.pth",
             "vocals", 8.7, 414_046_363),
    _bytesep("resunet143-subband", 5804160, "resunet143_subbtandtime_accompaniment_16.4dB_500k_steps_v2.pth",
             "accompaniment", 16.4, 414_036_369),
    _bytesep("mobilenet-subband", 5804160, "mobilenet_subbtandtime_vocals_7.2dB_500k_steps_v2.pth",
             "vocals", 7.2, 4_621_773),
    _bytesep("mobilenet-subband", 5804160, "mobilenet_subbtandtime_accompaniment_14.6dB_500k_steps_v2.pth",
             "accompaniment", 14.6, 4_621_773),
    # Demucs' networks, by the systems that they belong to: mdx
    _demucs("demucs", "mdx_final", "0d19c1c6", 178_048_329,
            "0f06f20ed6ddc8058fa72ccc4845f3a88916eff7d007b623924193de217bbcf4"),
    _demucs("demucs", "mdx_final", "7ecf8ec1", 178_048_329,
            "70f50cc947d08f32e6dd8e2b687d398fa5ef9e51d1bd7600e32205d1f44be6b9"),
    _demucs("hdemucs", "mdx_final", "c511e2ab", 167_334_095,
            "fe6987756a7087d339bf63b19bb481b12cea02d3bc0de7583df7597210209649"),
    _demucs("hdemucs", "mdx_final", "7d865c68", 167_918_783,
            "3d5dd56b5bc986f136dff98655ded22b2b033f465ccec7a28640a6b15fd71ed6"),
    # mdx_extra
    _demucs("hdemucs", "mdx_final", "e51eebcc", 167_399_275,
            "c1b80bdd6de58274abf359e66822a76f49ce2b9f086fc5dc917ac14598e6bebf"),
    _demucs("hdemucs", "mdx_final", "a1d90b5c", 167_391_595,
            "ae9d245283bf24b552913ee233a1101dcd0aeaed59b1c0a2da0e1f6eda15101b"),
    _demucs("hdemucs", "mdx_final", "5d2d6c55", 167_391_595,
            "db83574e05b2308f76e2764819da673f2d16d437b9e619f5fcb72f275fc0e24f"),
    _demucs("hdemucs", "mdx_final", "cfa93e08", 167_399_275,
            "61801ae1567d606c97a9c3469e943ae306d0a873eeb60d623ae7cfc7042b3f68"),
    # hdemucs_mmi
    _demucs("hdemucs", "hybrid_transformer", "75fc33f5", 167_407_275,
            "1941ce654b11df4132b9f4eae408556b4c83fad6fe26b4bc0dbcb36b975befb3"),
    # htdemucs
    _demucs("htdemucs", "hybrid_transformer", "955717e8", 84_141_911,
            "8726e21a993978c7ba086d3872e7608d7d5bfca646ca4aca459ffda844faa8b4"),
    # htdemucs_ft
    _demucs("htdemucs", "hybrid_transformer", "f7e0c4bc", 84_141_271,
            "ba3fe64ae8ef66ac9a4857222ce48efbdc5eb3ad375cb79dd13debee5aaa4066"),
    _demucs("htdemucs", "hybrid_transformer", "d12395a8", 84_141_271,
            "e57c48e6b0e38af4f7118d7bd08c49f0a0c0edf7d09143bdd902ea0d237303e6"),
    _demucs("htdemucs", "hybrid_transformer", "92cfc3b6", 84_141_271,
            "ef3bcb9c8b40d14ae5d51b6db2587339cc12c6b77c0be151ce6d69002e087bf2"),
    _demucs("htdemucs", "hybrid_transformer", "04573f0d", 84_141_271,
            "f3cf25b222c4eed7cd49dd8b2c9597d50c18bd154090f7b919cfa5f93cf22c49"),
    # htdemucs_6s
    _demucs("htdemucs", "hybrid_transformer", "5c90dfd2", 54_996_327,
            "34c22ccb381c6f9fdbf324f04e1e2fe21aaaf293f5ded163a162697ff9a02ddd", (*STEMS, "guitar", "piano")),
)
# fmt: on

PUBLISHED: Mapping[str, PublishedWeights] = MappingProxyType({weights.name: weights for weights in _ALL})
