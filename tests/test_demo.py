"""`jaxmss demo` with the real weights on the real recording: what it prints, its files, and its page in a browser."""

from __future__ import annotations

import base64
import contextlib
import io
import re
import struct
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from chromium import in_chromium, needs_chromium
from golden_weights import GOLDEN

from jaxmss.demo import run
from jaxmss.demo.spectrogram import COLOURS, encode_png, height, log_spectrogram, palette
from jaxmss.errors import AudioError

PLAY_ALL = """
  const played = [];
  for (const player of document.querySelectorAll("audio")) {
    player.muted = true;
    await player.play();
    while (player.currentTime < 0.1) await new Promise((resolve) => setTimeout(resolve, 10));
    const playing = [...document.querySelectorAll("audio")].filter((other) => !other.paused).length;
    const playhead = player.closest("figure").querySelector(".playhead");
    played.push({duration: player.duration, playing, playhead: parseFloat(playhead.style.left)});
  }
  return {
    played,
    images: [...document.images].map((image) => [image.naturalWidth, image.naturalHeight]),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
"""


class Elements(HTMLParser):
    """All start tags of a page, with their attributes, and its text."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def named(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Return the folder that the demonstration wrote, and what it printed."""
    output = tmp_path_factory.mktemp("demo") / "a name with spaces"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        run(output)
    return output, printed.getvalue()


@pytest.fixture(scope="module")
def page(demo) -> str:
    return (demo[0] / "index.html").read_text("utf-8")


def medians() -> list[float]:
    """What museval scored the published implementation with: vocals, accompaniment."""
    with np.load(GOLDEN / "spleeter-falcon.npz") as golden:
        return np.median(golden["museval_sdr"], axis=1).tolist()


def content(uri: str, kind: str) -> bytes:
    prefix, encoded = uri.split(",")
    assert prefix == f"data:{kind};base64"
    return base64.b64decode(encoded, validate=True)


def test_printed_scores_are_those_of_museval_beside_the_mixture_s(demo):
    for stem, sdr in zip(("vocals", "accompaniment"), medians(), strict=True):
        mixture, estimate, gain = map(float, re.search(rf"{stem} +(\S+) +(\S+) +(\S+)", demo[1]).groups())
        assert estimate == pytest.approx(sdr, abs=0.011)
        assert gain == pytest.approx(estimate - mixture, abs=0.011)


def test_stems_are_written_as_the_published_implementation_makes_them(demo):
    with np.load(GOLDEN / "spleeter-falcon.npz") as golden:
        vocals, rate = soundfile.read(demo[0] / "vocals.wav")
        np.testing.assert_allclose(vocals, np.clip(golden["vocals"], -1, 1), rtol=0, atol=1.01 / 32768)
    assert rate == 44100
    assert soundfile.info(demo[0] / "accompaniment.wav").frames == len(vocals)
    assert sorted(path.name for path in demo[0].iterdir()) == ["accompaniment.wav", "index.html", "vocals.wav"]


def test_page_holds_everything_it_shows(page):
    assert len(page) < 6e6
    for tag, attributes in Elements(page).found:
        for name in ("src", "href", "srcset", "data", "poster"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, name)
    assert not re.search(r"url\(|@import|https?://", re.sub(r"base64,[^\"]*", "", page))


def test_page_shows_the_scores(page):
    text = Elements(page).text.replace("\N{MINUS SIGN}", "-")
    for sdr in medians():
        assert f"{sdr:.2f}" in text


def test_every_sound_of_the_page_can_be_decoded(page):
    players = Elements(page).named("audio")
    assert len({player["aria-label"] for player in players}) == 5
    for player in players:
        assert "controls" in player
        samples, rate = soundfile.read(io.BytesIO(content(player["src"], "audio/flac")))
        assert rate == 44100
        assert 5.5 < len(samples) / rate < 6.5
        assert 0.01 < samples.std() < 0.5


def test_every_picture_of_the_page_is_a_described_spectrogram(page):
    pictures = Elements(page).named("img")
    assert len({picture["alt"] for picture in pictures}) == 5
    for picture in pictures:
        png = content(picture["src"], "image/png")
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        width, rows = struct.unpack(">II", png[16:24])
        assert width > 900
        assert rows == 256


@needs_chromium
@pytest.mark.parametrize("width", [360, 1200])
def test_page_plays_and_fits_in_a_browser(page, tmp_path, width):
    told = in_chromium(page, PLAY_ALL, tmp_path, width)
    assert "error" not in told
    assert len(told["played"]) == 5
    for player in told["played"]:
        assert 5.5 < player["duration"] < 6.5
        assert player["playing"] == 1  # the others are silenced
        assert player["playhead"] > 0
    assert all(width > 900 and rows == 256 for width, rows in told["images"])
    assert told["overflow"] <= 0


def test_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(AudioError, match=r"taken.*cannot be written"):
        run(tmp_path / "taken")


def sine(frequency: float) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(44100) / 44100)[None].astype(np.float32)


@pytest.mark.parametrize("frequency", [200.0, 3000.0, 12000.0])
def test_tone_stands_at_its_height_in_the_spectrogram(frequency):
    levels = log_spectrogram(sine(frequency), 44100)
    column = levels[:, levels.shape[1] // 2]
    assert column.argmax() / (len(column) - 1) == pytest.approx(height(frequency), abs=0.008)  # two rows


def test_tone_of_full_scale_has_0_db():
    levels = log_spectrogram(sine(40 * 44100 / 4096), 44100)  # in the middle of a bin
    assert levels[:, levels.shape[1] // 2].max() == pytest.approx(0, abs=0.5)


def test_palette_runs_evenly_through_its_colours():
    colours = palette()
    assert bytes(colours[0]).hex() == COLOURS[0][1:]
    assert bytes(colours[-1]).hex() == COLOURS[-1][1:]
    luminance = (colours / 255) ** 2.2 @ [0.2126, 0.7152, 0.0722]
    steps = np.diff(np.cbrt(luminance))
    assert (steps > -0.003).all()  # 8-bit colours round


def test_png_holds_the_image_in_chunks_with_their_checksums():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    colours = np.arange(36, dtype=np.uint8).reshape(12, 3)
    png, chunks = encode_png(image, colours)[8:], {}
    while png:
        (length,) = struct.unpack(">I", png[:4])
        name, data, png = png[4:8], png[8 : 8 + length], png[8 + length :]
        assert struct.unpack(">I", png[:4]) == (zlib.crc32(name + data),)
        chunks[name], png = data, png[4:]
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (4, 3, 8, 3, 0, 0, 0)
    assert chunks[b"PLTE"] == colours.tobytes()
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(3, 5)
    np.testing.assert_array_equal(rows, np.pad(image, [(0, 0), (1, 0)]))  # before each row its filter, none
