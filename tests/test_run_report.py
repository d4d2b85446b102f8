"""A run's report: what it says of the metrics, and how it looks in a browser."""

from __future__ import annotations

import json
import math
import re

import pytest
import tiny_run
from chromium import in_chromium, needs_chromium

from jaxmss.errors import AudioError
from jaxmss.training.chart import ticks
from jaxmss.training.report import render, summarise, write_report
from jaxmss.training.run_directory import claimed
from jaxmss.training.watching import MetricsFile, read_metrics

SDR = {100: (1.0, 5.0), 200: (3.5, 6.0), 300: (3.0, 5.5), 400: (math.nan, 9.0)}  # step -> vocals, <b>
LOOK = """
  const box = (element) => element.getBoundingClientRect();
  return {
    lines: [...document.querySelectorAll("polyline")].map((line) => [box(line).width, box(line).height]),
    colours: [...document.querySelectorAll("polyline")].map((line) => getComputedStyle(line).stroke),
    figures: [...document.querySelectorAll("figure")].map((figure) => box(figure).width),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
"""


def step_line(step: int, loss: float) -> dict:
    rest = {"examples_per_second": 40.0, "hours": step / 1000, "skipped_total": 2}
    return {"step": step, "time": 1.7e9 + step, "loss": loss, "loss_mean": loss, **rest}


@pytest.fixture
def run(tmp_path):
    """The directory of a run of 400 steps, the second of its four validations the best."""
    directory = tmp_path / "<run>"
    with claimed(directory, tiny_run.config()):
        file = MetricsFile(directory / "metrics.jsonl", 0)
        file.write({"step": 0, "started": {"device": "cpu", "devices": 1}})
        for step in range(10, 401, 10):
            file.write(step_line(step, 1 / step if step > 20 else math.nan))
            if step in SDR:
                sdr = dict(zip(("vocals", "<b>"), SDR[step], strict=True))
                scores = {"sdr": sdr, "mixture": {"vocals": -5.0, "<b>": 4.0}, "tracks": {"A": sdr, "B": sdr}}
                validation = {"mean": sum(SDR[step]) / 2, **scores, "failed": {}, "seconds": 1.0}
                file.write({"step": step, "validation": validation})
        file.close()
    return directory


def test_the_report_tells_the_best_the_last_and_the_gain_over_the_mixture(run):
    table = write_report(run)
    report = json.loads((run / "report.json").read_text())
    assert report["best"] == {"step": 200, "mean": 4.75, "sdr": {"vocals": 3.5, "<b>": 6.0}}
    assert report["last"] == {"step": 400, "mean": None, "sdr": {"vocals": None, "<b>": 9.0}}
    assert report["gain"] == {"vocals": 8.5, "<b>": 2.0}
    assert (report["step"], report["tracks"], report["skipped"]) == (400, 2, 2)
    lines = table.splitlines()
    assert lines[2].split() == ["vocals", "-5.00", "–", "3.50", "+8.50"]
    assert lines[3].split() == ["<b>", "4.00", "9.00", "6.00", "+2.00"]


def test_a_validation_in_which_tracks_failed_is_not_compared(run):
    expected = summarise("run", read_metrics(run))
    scores = {"sdr": {"vocals": 8.0, "<b>": 9.0}, "mixture": {"vocals": -5.0, "<b>": 4.0}, "tracks": {"A": {}, "B": {}}}
    failed = {"step": 400, "validation": {"mean": 8.5, **scores, "failed": {"B": "it is gone"}}}
    assert summarise("run", [*read_metrics(run), failed]) == expected
    assert summarise("run", [failed])["best"] is None


def test_validations_over_other_tracks_than_the_last_one_are_not_compared(run):
    lines = read_metrics(run)
    [second] = [line for line in lines if line["step"] == 200 and "validation" in line]
    other = {"step": 400, "validation": second["validation"] | {"mean": 1.0, "over": "3 tracks"}}
    report = summarise("run", [*lines, other])
    assert (report["best"]["step"], report["best"]["mean"]) == (400, 1.0)


def test_of_equal_validations_the_last_is_the_best_as_it_is_of_checkpoints(run):
    lines = read_metrics(run)
    [second] = [line for line in lines if line["step"] == 200 and "validation" in line]
    assert summarise("run", [*lines, second | {"step": 400}])["best"]["step"] == 400


def test_a_complete_run_that_is_started_again_was_not_taken_up(run):
    lines = [*read_metrics(run), {"step": 400, "time": 1.8e9, "started": {"device": "gpu", "devices": 4}}]
    page = render(summarise("run", lines), lines, json.loads((run / "config.json").read_text()))
    assert "taken up" not in page
    assert "<dt>devices</dt><dd>1 x cpu</dd>" in page


def test_the_page_needs_nothing_beside_it_and_escapes_names(run):
    write_report(run)
    page = (run / "report.html").read_text()
    assert not re.search(r"url\(|@import|https?://|<script", page)
    assert not re.search("<(run|b)>", page)
    assert "+5.25 dB on average" in page
    assert re.search(r"&lt;b&gt;</th><td>4.00</td><td>9.00</td><td>6.00</td><td>\+2.00</td>", page)


def test_a_run_without_validation_or_steps_has_a_report(tmp_path):
    with claimed(tmp_path / "run", tiny_run.config()):
        assert write_report(tmp_path / "run") == "run: no validation to tell of"
        file = MetricsFile(tmp_path / "run" / "metrics.jsonl", 0)
        file.write(step_line(5, 0.1))
        assert write_report(tmp_path / "run") == "run: no validation to tell of"
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<polyline") == 1
    assert "<table" not in page


def test_the_time_that_a_run_lay_still_is_not_counted(run):
    config = json.loads((run / "config.json").read_text())
    started = {"started": {"device": "cpu", "devices": 1}}
    lines = [{"step": 0, "time": 100.0, **started}, step_line(10, 0.1) | {"time": 160.0}]
    lines += [{"step": 10, "time": 90_000.0, **started}, step_line(20, 0.1) | {"time": 90_060.0}]
    page = render(summarise("run", lines), lines, config)
    assert "<dt>time</dt><dd>2 min 0 s</dd>" in page
    assert "<dt>taken up</dt><dd>once</dd>" in page


def test_a_report_that_cannot_be_written_is_one_clear_line(run):
    (run / "report.html").mkdir()
    with pytest.raises(AudioError, match=r"report\.html' cannot be written"):
        write_report(run)
    assert not (run / "report.json").exists()


def test_a_long_run_makes_no_heavy_page(run):
    lines = [*read_metrics(run), *(step_line(step, 0.1) for step in range(401, 100_000))]
    page = render(summarise("run", lines), lines, json.loads((run / "config.json").read_text()))
    assert len(page) < 40_000
    (points,) = re.findall(r'<polyline class="c0" points="([^"]*)"', page)[:1]
    assert 300 < len(points.split()) <= 400


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-5.6, 9, [-5, 0, 5]), (0, 0.0031, [0, 0.001, 0.002, 0.003])],
)
def test_ticks_are_round_numbers(low, high, expected):
    assert ticks(float(low), float(high)) == expected


@needs_chromium
@pytest.mark.parametrize("width", [500, 1200])
def test_the_page_shows_its_curves_and_fits_in_a_browser(run, tmp_path, width):
    write_report(run)
    told = in_chromium((run / "report.html").read_text(), LOOK, tmp_path, width)
    assert "error" not in told
    assert len(told["lines"]) == 5  # the loss; two sources, and each in the mixture
    assert all(size[0] > 100 for size in told["lines"])
    assert told["lines"][0][1] > 50
    assert "none" not in told["colours"]
    assert len(set(told["colours"][1:])) == 2
    assert told["overflow"] <= 0
