"""The published weights, by name: where each file comes from and what its authors measured.

What no public source known to us states is None: a hash or a size is never guessed. The sizes are those that bytesep's
own code checks for. The scores are for the very file, in dB, museval's SDR as the median over the MUSDB18 test tracks
(MUSDB18-HQ for `cws-*`): from the paper for `cws-*`, from bytesep's README for the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import quote

_CWS_PAPER = "Liu, Kong, Liu: CWS-PResUNet: Music Source Separation with Channel-wise Subband Phase-aware ResUNet, 2021"
_BYTESEP_PAPER = (
    "Kong, Cao, Liu, Choi, Wang: Decoupling Magnitude and Phase Estimation with Deep ResUNet for Music Source "
    "Separation, ISMIR 2021"
)


@dataclass(frozen=True)
class PublishedWeights:
    """One file of published weights.

    Attributes:
      name: what the command line calls it.
      architecture: the name of the architecture that the weights fit.
      record: the number of the Zenodo record that holds the file.
      file_name: the file in that record.
      sources: the stems that the network makes, in its order.
      scores: the published SDR in dB of a stem; stems without a published score are absent.
      paper: where the system is described.
      code: the authors' repository.
      size: the length of the file in bytes, or None where nobody published it.
      md5: the file's MD5 hash in hexadecimal, or None where we have not seen the one that Zenodo shows.
      licence: the licence of the weights, or None where only the record's own page states it.
    """

    name: str
    architecture: str
    record: int
    file_name: str
    sources: tuple[str, ...]
    scores: Mapping[str, float]
    paper: str
    code: str
    size: int | None = None
    md5: str | None = None
    licence: str | None = None

    @property
    def url(self) -> str:
        """Where to fetch the file."""
        return f"{self.page}/files/{quote(self.file_name)}?download=1"

    @property
    def page(self) -> str:
        """The page of the record, for readers: it states the licence and the hashes."""
        return f"https://zenodo.org/record/{self.record}"


def _cws(name: str, file_name: str, sources: tuple[str, ...], scores: dict[str, float]) -> PublishedWeights:
    return PublishedWeights(
        name=name,
        architecture=name,
        record=5175846,
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
        record=record,
        file_name=file_name,
        sources=(source,),
        scores=MappingProxyType({source: score}),
        paper=_BYTESEP_PAPER,
        code="https://github.com/bytedance/music_source_separation",
        size=size,
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
)
# fmt: on

PUBLISHED: Mapping[str, PublishedWeights] = MappingProxyType({weights.name: weights for weights in _ALL})
