"""The demonstration's page: one HTML file with scores, spectrograms and players, which needs nothing beside it."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from string import Template

import numpy as np
import soundfile

from jaxmss.demo.spectrogram import COLOURS, LOUDEST, QUIETEST, height, spectrogram_png
from jaxmss.typing import Float

_FREQUENCIES = (100.0, 300.0, 1000.0, 3000.0, 10000.0)  # Hz, that the axis names


@dataclass(frozen=True)
class Score:
    """What separation did to one stem.

    Attributes:
      mixture: SDR of the mixture against the stem, in dB.
      estimate: SDR of the estimate, in dB.
    """

    mixture: float
    estimate: float


@dataclass(frozen=True)
class Clip:
    """A sound to listen to.

    Attributes:
      section: heading under which it stands.
      title: heading of its own.
      waveform: the samples (c, t).
    """

    section: str
    title: str
    waveform: Float[np.ndarray, "c t"]


def render(
    title: str, introduction: str, scores: Mapping[str, Score], clips: Iterable[Clip], sample_rate: int, credits: str
) -> str:
    """Return the page. All text is plain and is escaped here; clips of one section stand side by side."""
    sections: dict[str, list[str]] = {}
    for clip in clips:
        sections.setdefault(clip.section, []).append(figure(clip, sample_rate))
    template = Template(resources.files("jaxmss.demo").joinpath("page.html").read_text("utf-8"))
    return template.substitute(
        head=head(title),
        title=html.escape(title),
        introduction=html.escape(introduction),
        rows="\n".join(_row(stem, score) for stem, score in scores.items()),
        sections="\n".join(section(heading, figures) for heading, figures in sections.items()),
        **common(),
        credits=html.escape(credits),
    )


def head(title: str, style: str = "") -> str:
    """Return the head of a page with a title (plain text), in the common style and more of its own."""
    template = Template(resources.files("jaxmss.demo").joinpath("head.html").read_text("utf-8"))
    return template.substitute(title=html.escape(title), style=common()["style"] + style)


def common() -> dict[str, str]:
    """Return what templates of pages with clips share: style, the players' script, the ends of the colour scale."""
    files = resources.files("jaxmss.demo")
    return {
        "style": Template(files.joinpath("page.css").read_text("utf-8")).substitute(gradient=", ".join(COLOURS)),
        "script": files.joinpath("players.js").read_text("utf-8"),
        "quietest": minus(f"{QUIETEST:.0f} dB"),
        "loudest": minus(f"{LOUDEST:.0f} dB"),
    }


def _row(stem: str, score: Score) -> str:
    values = f"{score.mixture:.2f}", f"{score.estimate:.2f}", f"{score.estimate - score.mixture:+.2f}"
    cells = "".join(f"<td>{minus(value)}</td>" for value in values)
    return f'<tr><th scope="row">{html.escape(stem.capitalize())}</th>{cells}</tr>'


def minus(number: str) -> str:
    """Return a number as text with a true minus sign."""
    return number.replace("-", "\N{MINUS SIGN}")


def section(heading: str, figures: list[str]) -> str:
    """Return a section of the page, its figures side by side; `heading` is plain text, `figures` are of `figure`."""
    return f'<section>\n<h2>{html.escape(heading)}</h2>\n<div class="clips">\n{"".join(figures)}</div>\n</section>'


def figure(clip: Clip, sample_rate: int) -> str:
    """Return a clip as an HTML figure: its title, its spectrogram, and a player that needs the players' script."""
    seconds = clip.waveform.shape[1] / sample_rate
    what = html.escape(f"{clip.section}: {clip.title}")
    frequencies = "".join(
        f'<span style="bottom:{100 * height(hertz):.1f}%">{_hertz(hertz)}</span>' for hertz in _FREQUENCIES
    )
    times = "".join(
        f'<span style="left:{100 * second / seconds:.1f}%">{second} s</span>' for second in range(math.ceil(seconds))
    )
    picture = _data_uri("image/png", spectrogram_png(clip.waveform, sample_rate))
    sound = _data_uri("audio/flac", _flac(clip.waveform, sample_rate))
    return f"""<figure>
<figcaption><h3>{html.escape(clip.title)}</h3></figcaption>
<div class="plot">
<div class="frequencies" aria-hidden="true">{frequencies}</div>
<div class="picture"><img src="{picture}" alt="Spectrogram of {what}, {seconds:.1f} s"><i class="playhead"></i></div>
<div class="times" aria-hidden="true">{times}</div>
</div>
<audio controls preload="metadata" aria-label="{what}" src="{sound}"></audio>
</figure>
"""


def _hertz(frequency: float) -> str:
    return f"{frequency / 1000:g} kHz" if frequency >= 1000 else f"{frequency:g} Hz"


def _flac(waveform: Float[np.ndarray, "c t"], sample_rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.clip(waveform.T, -1, 1), sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
