"""The published systems of several networks, by name.

Demucs' bags are as the package demucs 4.1.0 describes them: networks by their signatures, which stems each of them has
a share in, and a segment for all. The others are of Liu, Kong, Liu: CWS-PResUNet: Music Source Separation with
Channel-wise Subband Phase-aware ResUNet, 2021: `bytemss` is what took part in the Music Demixing Challenge, with what
its authors' code takes for Demucs today; in `cws-presunet` one network makes all that the vocals leave.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from jaxmss.systems import Part, System

_LONG = 44.0  # seconds of a segment, for networks that take any
_ALL = ("drums", "bass", "other", "vocals")
_SHARES_IN_MDX = {
    "0d19c1c6": ("drums", "bass"),
    "7ecf8ec1": ("bass",),
    "c511e2ab": ("drums", "other", "vocals"),
    "7d865c68": ("drums", "other", "vocals"),
}
_VOCALS = Part("cws-vocals", ("vocals",))
_RHYTHM = tuple(
    Part(network, tuple(stem for stem in stems if stem in ("drums", "bass")), segment=_LONG, overlap=0.15)
    for network, stems in _SHARES_IN_MDX.items()
)

SYSTEMS: Mapping[str, System] = MappingProxyType(
    {
        "bytemss": System((_VOCALS, *_RHYTHM, Part("cws-joint", ("other",), minus=("vocals",)))),
        "cws-presunet": System((_VOCALS, Part("cws-joint", ("drums", "bass", "other"), minus=("vocals",)))),
        "mdx": System(tuple(Part(network, stems, segment=_LONG) for network, stems in _SHARES_IN_MDX.items())),
        "mdx_extra": System(
            tuple(Part(network, _ALL, segment=_LONG) for network in ("e51eebcc", "a1d90b5c", "5d2d6c55", "cfa93e08"))
        ),
        "hdemucs_mmi": System((Part("75fc33f5", _ALL, segment=_LONG),)),
        "htdemucs": System((Part("955717e8", _ALL),)),
        "htdemucs_ft": System(
            (
                Part("f7e0c4bc", ("drums",)),
                Part("d12395a8", ("bass",)),
                Part("92cfc3b6", ("other",)),
                Part("04573f0d", ("vocals",)),
            )
        ),
        "htdemucs_6s": System((Part("5c90dfd2", (*_ALL, "guitar", "piano")),)),
    }
)
