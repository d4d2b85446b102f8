"""What the filter banks alone cost: audio is split into subbands, merged again, and scored against itself.

Table 1 of H. Liu, L. Xie, J. Wu, G. Yang, "Channel-wise Subband Input for Better Voice and Accompaniment Separation on
High Resolution Music" (2020), over the test vocals of MUSDB18-HQ. The chain is computed in float32, as in training:
its rounding is 133 dB below the audio and lowers the SDR of 2 subbands by 0.3 dB, the others by less than 0.02 dB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxmss import pqmf
from jaxmss.audio.finding import find_audio_files
from jaxmss.audio.reading import read
from jaxmss.data.prepared import is_prepared
from jaxmss.data.tracks import Track, demo_tracks, find_tracks
from jaxmss.errors import InputError
from jaxmss.evaluation.aggregation import median_over_frames
from jaxmss.evaluation.results import shown
from jaxmss.evaluation.scores import frame_sdr

PUBLISHED = {2: 102.3, 4: 93.7, 8: 79.9}  # subbands: SDR in dB

_DEMO = "demo"
_Audio = Callable[[], tuple[Float[np.ndarray, "c t"], int]]


def evaluate_filters(source: str, split: str, tell: Callable[[str], None]) -> int:
    """Tell the SDR of each track and the medians, a line at a time; return 1 if a track could not be scored, or 0.

    Tracks are the vocals of a data set's `split`, all audio files in a folder that has no such folder in it, or the
    recording ``demo``. SDR is museval's, the median over frames of 1 s; beside the medians over tracks stand those of
    the SDR over a whole track, and the published figures. Raises `InputError` where there is nothing to score.
    """
    tracks = _tracks(source, split)
    tell(_line("SDR in dB", [f"{subbands} subbands" for subbands in PUBLISHED]))
    scores, failed = [], list[str]()
    for name, audio in tracks.items():
        try:
            scores.append(_scored(*audio()))
        except InputError as error:
            failed.append(f"failed: {name}: {error}")
        else:
            tell(_line(name, map(shown, scores[-1][0])))
    if scores:
        framewise, whole = np.median(scores, axis=0)
        tell("\n" + _line("published", map(shown, PUBLISHED.values())))
        tell(_line("median, frames of 1 s", map(shown, framewise)))
        tell(_line("median, whole tracks", map(shown, whole)))
    for line in failed:
        tell(line)
    return int(bool(failed))


def reconstruction(waveform: Float[np.ndarray, "c t"], subbands: int) -> Float[np.ndarray, "c t"]:
    """Return what is left of a waveform after analysis and synthesis."""
    bands = pqmf.analyze(jnp.asarray(waveform), subbands, tail_padding=True)
    return np.asarray(pqmf.synthesize(bands, waveform.shape[1], tail_padding=True))


def _scored(waveform: Float[np.ndarray, "c t"], rate: int) -> Float[np.ndarray, "2 s"]:
    """Return the SDR for each number of subbands: the median over frames, and over all samples."""
    merged = [reconstruction(waveform, subbands) for subbands in PUBLISHED]
    framewise = [median_over_frames(frame_sdr(waveform, audio, rate)) for audio in merged]
    whole = [float(frame_sdr(waveform, audio, waveform.shape[1])[0]) for audio in merged]
    if np.isnan([framewise, whole]).any():
        raise InputError("it is silent in every second; leave it out")
    return np.array([framewise, whole])


def _tracks(source: str, split: str) -> dict[str, _Audio]:
    """Return how to read each track, by name."""
    if source != _DEMO and not is_prepared(source) and not (Path(source) / split).is_dir():
        return {str(path): partial(read, path) for path in find_audio_files([source])}
    tracks = demo_tracks() if source == _DEMO else find_tracks(source, split)
    return {track.name: partial(_vocals, track) for track in tracks}


def _vocals(track: Track) -> tuple[Float[np.ndarray, "c t"], int]:
    stems, rate = track.read(["vocals"])
    return stems["vocals"], rate


def _line(name: str, cells: Iterable[str]) -> str:
    return f"{name[-39:]:40}" + "".join(f"{cell:>12}" for cell in cells)
