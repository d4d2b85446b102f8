"""Published figures to compare with: museval's SDR, median over frames of 1 s, then over the 50 test tracks, in dB.

On MUSDB18-HQ or MUSDB18, as each paper says. Sources: the papers of the systems, and the tables that they quote:
H. Liu, Q. Kong, J. Liu, "CWS-PResUNet: Music Source Separation with Channel-wise Subband Phase-aware ResUNet" (2021);
Q. Kong et al., "Decoupling Magnitude and Phase Estimation with Deep ResUNet for Music Source Separation" (2021), and
for the subband models the results that its authors' code states.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Figure(NamedTuple):
    """One published figure: SDR in dB, and the system that it was published for."""

    system: str
    sdr: float


TEST_TRACKS = 50  # of MUSDB18, which all of the figures are medians over

# fmt: off
SYSTEMS: Mapping[str, Mapping[str, float]] = MappingProxyType({
    "CWS-PResUNet": {"vocals": 8.92, "drums": 6.38, "bass": 5.93, "other": 5.84},
    "ByteMSS": {"vocals": 8.92, "drums": 6.57, "bass": 6.53, "other": 5.84},
    "ResUNetDecouple+": {"vocals": 8.98, "drums": 6.62, "bass": 6.04, "other": 5.29, "accompaniment": 16.63},
    "ResUNet143 subband": {"vocals": 8.7, "accompaniment": 16.4},
    "MobileNet subband": {"vocals": 7.2, "accompaniment": 14.6},
    "Demucs": {"vocals": 6.89, "drums": 6.57, "bass": 6.53, "other": 5.14},
    "X-UMX": {"vocals": 6.61, "drums": 6.47, "bass": 5.43, "other": 4.64},
    "D3Net": {"vocals": 7.24, "drums": 7.01, "bass": 5.25, "other": 4.53, "accompaniment": 13.52},
    "Spleeter": {"vocals": 6.86, "drums": 6.71, "bass": 5.51, "other": 4.55},
    "Conv-TasNet": {"vocals": 6.81, "drums": 6.08, "bass": 5.66, "other": 4.37},
    "Open-Unmix": {"vocals": 6.32, "drums": 5.73, "bass": 5.23, "other": 4.02},
    "Wave-U-Net": {"vocals": 3.25, "drums": 4.22, "bass": 3.21, "other": 2.25},
})
# fmt: on

# the system that published weights belong to, by the start of their name
_OF_WEIGHTS = {
    "cws-": "CWS-PResUNet",
    "bytemss": "ByteMSS",
    "resunet143-ismir2021-": "ResUNetDecouple+",
    "resunet143-subband-": "ResUNet143 subband",
    "mobilenet-subband-": "MobileNet subband",
    "spleeter-": "Spleeter",
}


def figure(name: str, stem: str) -> Figure | None:
    """Return the figure to hold a stem of the system `name` against.

    It is the figure of the system that published weights of that name belong to, or, where there is none, the best that
    was published for the stem; None where none was.
    """
    own = next((system for start, system in _OF_WEIGHTS.items() if name.startswith(start)), None)
    if own is not None and stem in SYSTEMS[own]:
        return Figure(own, SYSTEMS[own][stem])
    figures = [Figure(system, scores[stem]) for system, scores in SYSTEMS.items() if stem in scores]
    return max(figures, key=lambda figure: figure.sdr, default=None)
