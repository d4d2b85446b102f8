"""report.html: what it says, and that it works in a browser."""

from __future__ import annotations

import re

import numpy as np
import pytest
from chromium import in_chromium, needs_chromium

from jaxmss.evaluation.excerpts import Named, find_worst, worst_excerpts, write_excerpt
from jaxmss.evaluation.report import render, write_report
from jaxmss.evaluation.results import summarise
from jaxmss.evaluation.run import Outcome
from jaxmss.evaluation.scores import MEASURES, score_track
from jaxmss.evaluation.track_file import TrackResult

from .stems import separated, stems_of_noise

RATE = 8000
CONFIG = {"data": {"root": "<root>", "split": "test"}, "engine": "jaxmss", "device": None}
NAMES = ("<Quiet> & 1", "Second", "Third")

USE = """
  const figures = () => [...document.querySelectorAll(".tracks tbody tr")].map((row) => row.cells[0].textContent);
  const before = figures();
  const button = document.querySelector(".tracks thead button");
  button.focus();
  button.click();
  const ascending = figures();
  button.click();
  const player = document.querySelector("audio");
  player.muted = true;
  await player.play();
  while (player.currentTime < 0.1) await new Promise((resolve) => setTimeout(resolve, 10));
  return {
    before, ascending, descending: figures(),
    focused: document.activeElement === button,
    sorted: button.parentElement.getAttribute("aria-sort"),
    durations: player.duration,
    boxes: [...document.querySelectorAll("svg.box rect")].map((box) => box.getBoundingClientRect().width),
    images: [...document.images].filter((image) => image.naturalHeight === 256).length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
"""


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Return a directory with the excerpts of both stems of three tracks of noise, and what was measured on them."""
    output, outcome = tmp_path_factory.mktemp("report"), Outcome()
    for seed, name in enumerate(NAMES):
        references = {s: 0.05 * x for s, x in stems_of_noise(["vocals", "drums"], 1, 6 * RATE, seed).items()}
        estimates = separated(references, leak=0.1 * (3 - seed), seed=seed)
        scores = score_track(references, estimates, RATE)
        whole = {stem: {"SDR": 1.0, "SI-SDR": float("nan")} for stem in references}
        outcome.results[name] = TrackResult(scores, whole, 6.0, None, 0.5)
        for worst in find_worst(scores):
            write_excerpt(output, name, worst, sum(references.values()), estimates, references, RATE)
    outcome.failed["Broken <one>"] = "it lacks bass.wav"
    return output, outcome


@pytest.fixture(scope="module")
def page(scored) -> str:
    output, outcome = scored
    return render(output, summarise("my-run", outcome, CONFIG), outcome, worst_of(outcome))


def worst_of(outcome: Outcome) -> list[Named]:
    return worst_excerpts({track: find_worst(result.scores) for track, result in outcome.results.items()})


def test_page_shows_the_medians_and_what_they_are_compared_with(scored, page):
    results = summarise("my-run", scored[1], CONFIG)
    row = re.search(r'<th scope="row">vocals</th>(.*?)</tr>', page)[1]
    for measure in MEASURES:
        assert f"{results['stems']['vocals']['measures'][measure]['median']:.2f}<" in row
    assert "ResUNetDecouple+" in row
    assert "8.98" in row


def test_page_needs_nothing_beside_it_and_escapes_names(page):
    assert not re.search(r"url\(|@import|https?://", re.sub(r"base64,[^\"]*", "", page))
    assert not re.search(r"<(Quiet|one|root)>", page)
    assert "Broken &lt;one&gt;: it lacks bass.wav" in page


def test_a_run_without_any_scores_still_has_a_report(tmp_path):
    outcome = Outcome(failed={"A": "it lacks bass.wav"})
    write_report(tmp_path, summarise("my-run", outcome, CONFIG), outcome, worst_of(outcome))
    assert "A: it lacks bass.wav" in (tmp_path / "report.html").read_text("utf-8")


def test_frames_that_are_all_unscored_leave_a_report(scored):
    output, _ = scored
    silent = {"vocals": {measure: np.full(3, np.nan) for measure in MEASURES}}
    outcome = Outcome({"Silent": TrackResult(silent, {"vocals": {"SDR": 0.0, "SI-SDR": np.nan}}, 3.0, 1.0, 0.5)})
    assert "Silent" in render(output, summarise("my-run", outcome, CONFIG), outcome, worst_of(outcome))


@needs_chromium
@pytest.mark.parametrize("width", [360, 1200])
def test_page_sorts_plays_and_fits_in_a_browser(page, tmp_path, width):
    told = in_chromium(page, USE, tmp_path, width)
    assert "error" not in told
    drums, vocals = told["before"][:3], told["before"][3:]
    assert sorted(drums) == sorted(vocals) == sorted(NAMES)
    assert told["ascending"][:3] == sorted(NAMES)
    assert told["descending"][:3] == sorted(NAMES, reverse=True)
    assert told["ascending"][3:] == vocals  # the other table stays as it is
    assert told["focused"]
    assert told["sorted"] == "descending"
    assert told["durations"] == pytest.approx(5, abs=0.01)
    assert len(told["boxes"]) == 6
    assert min(told["boxes"]) > 0
    assert told["images"] == 5 * 3
    assert told["overflow"] <= 0
