"""What came of a run: ``RUN/report.json``, ``RUN/report.html``, and a table for the terminal.

    print(write_report(run))  # in process 0, when training has ended; from metrics.jsonl and config.json alone

The tracks that it tells of are the validation split's, which the run has not learned from. The test split is for
`eval.py`.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from jaxmss.audio.aside import reporting, written_aside
from jaxmss.checkpoints.runs import CONFIG
from jaxmss.demo.page import common, minus
from jaxmss.output import duration
from jaxmss.training.chart import Curve, chart
from jaxmss.training.watching import read_metrics
from jaxmss.typing import Float

JSON, PAGE = "report.json", "report.html"


def write_report(run: Path) -> str:
    """Write a run's report, whole or not at all, and return it as lines for the terminal.

    Raises `AudioError` if it cannot be written.
    """
    lines = read_metrics(run)
    told = json.loads((run / CONFIG).read_text())
    report = summarise(run.resolve().name, lines)
    paths = [run / JSON, run / PAGE]
    contents = [json.dumps(report, indent=2) + "\n", render(report, lines, told)]
    with written_aside(paths) as files:
        for path, file, content in zip(paths, files, contents, strict=True):
            with reporting(path):
                file.write(content.encode())
    return table(report)


def summarise(name: str, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what report.json holds: None for a figure that does not exist.

    ``best`` (by the mean over sources) and ``last`` have ``step``, ``mean`` and ``sdr`` by source, in dB; ``mixture``
    the SDR of the mixture itself by source; ``gain`` what the best is above that. Validations over other tracks than
    the last one's are left out, and those in which tracks failed, as they are where checkpoints are compared.
    """
    steps = [line for line in lines if "loss_mean" in line]
    validations = [{"step": line["step"], **line["validation"]} for line in _comparable_validations(lines)]
    scored = [validation for validation in validations if validation["mean"] is not None]
    best = max(scored, key=lambda validation: (validation["mean"], validation["step"]), default=None)
    final = steps[-1] if steps else {}
    return {
        "run": name,
        "step": lines[-1]["step"] if lines else 0,
        "hours": final.get("hours"),
        "loss": final.get("loss_mean"),
        "skipped": final.get("skipped_total"),
        "examples_per_second": float(np.median([line["examples_per_second"] for line in steps])) if steps else None,
        "tracks": len(best["tracks"]) if best else 0,
        "mixture": best["mixture"] if best else {},
        "best": _scores(best),
        "last": _scores(validations[-1] if validations else None),
        "gain": {source: _minus(sdr, best["mixture"][source]) for source, sdr in best["sdr"].items()} if best else {},
    }


def table(report: Mapping[str, Any]) -> str:
    """Return the scores as lines for the terminal."""
    if report["best"] is None:
        return f"{report['run']}: no validation to tell of"
    lines = [f"{report['run']}, {_heading(report)}"]
    lines.append(f"{'':15}{'mixture':>9}{'last':>9}{'best':>9}{'best - mixture':>17}")
    for source, row in _rows(report).items():
        mixture, last, best = map(_shown, row[:3])
        lines.append(f"{source:15}{mixture:>9}{last:>9}{best:>9}{_shown(row[3], '+'):>17}")
    lines.append(f"best after step {report['best']['step']:,}, last after step {report['last']['step']:,}")
    return "\n".join(lines)


def render(report: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> str:
    """Return the page, which needs nothing beside it; `told` is what config.json holds."""
    template = Template(resources.files("jaxmss.training").joinpath("report.html").read_text("utf-8"))
    return template.substitute(
        title=html.escape(f"{report['run']}: {_headline(report)}"),
        introduction=html.escape(_introduction(report)),
        scores=_score_table(report),
        charts="\n".join(_charts(lines)),
        facts=_facts(report, lines, told),
        style=common()["style"],
    )


def _comparable_validations(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    whole = [line for line in lines if "validation" in line and not line["validation"]["failed"]]
    return [line for line in whole if line["validation"].get("over") == whole[-1]["validation"].get("over")]


def _scores(validation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if validation is None else {key: validation[key] for key in ("step", "mean", "sdr")}


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _rows(report: Mapping[str, Any]) -> dict[str, tuple[float | None, ...]]:
    """Return mixture, last, best and gain of each source."""
    columns = (report["mixture"], report["last"]["sdr"], report["best"]["sdr"], report["gain"])
    return {source: tuple(column[source] for column in columns) for source in report["gain"]}


def _shown(value: float | None, sign: str = "") -> str:
    return "\N{EN DASH}" if value is None else f"{value:{sign}.2f}"


def _heading(report: Mapping[str, Any]) -> str:
    tracks = "1 validation track" if report["tracks"] == 1 else f"{report['tracks']} validation tracks"
    return f"on {tracks} that it has not learned from: SDR in dB, median over frames of 1 s, then over tracks"


def _headline(report: Mapping[str, Any]) -> str:
    """Return the gain of the only source, or the mean of all."""
    gains = {source: gain for source, gain in report["gain"].items() if gain is not None}
    if not gains:
        return f"{report['step']:,} steps"
    mean = minus(_shown(sum(gains.values()) / len(gains), "+"))
    return f"{next(iter(gains))} {mean} dB" if len(gains) == 1 else f"{mean} dB on average"


def _introduction(report: Mapping[str, Any]) -> str:
    seen = f"{report['step']:,} steps" + (f" ({report['hours']:.3g} hours of audio)" if report["hours"] else "")
    return f"What {seen} brought over the mixture, {_heading(report)}." if report["gain"] else f"{seen}."


def _score_table(report: Mapping[str, Any]) -> str:
    if report["best"] is None:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("SDR in dB", "Mixture", "Last", "Best", "Gain"))
    rows = []
    for source, (mixture, last, best, gain) in _rows(report).items():
        cells = "".join(f"<td>{minus(text)}</td>" for text in (*map(_shown, (mixture, last, best)), _shown(gain, "+")))
        rows.append(f'<tr><th scope="row">{html.escape(source)}</th>{cells}</tr>')
    return f"""<div class="scores" role="region" aria-label="Scores" tabindex="0">
<table>
<caption>Best: after step {report["best"]["step"]:,}, by the mean over the stems. Last: after step
{report["last"]["step"]:,}. Gain: of the best over the mixture. Higher is better.</caption>
<thead><tr>{head}</tr></thead>
<tbody>{"".join(rows)}</tbody>
</table>
</div>"""


def _charts(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the curves of the loss and of the validation SDR, dashed where the mixture lies."""
    steps = [line for line in lines if "loss_mean" in line]
    x, y = _numbers([line["step"] for line in steps]), _numbers([line["loss_mean"] for line in steps])
    charts = [chart("Loss by step", [Curve("training", x, y)], 4)]

    told = _comparable_validations(lines)
    x, curves = _numbers([line["step"] for line in told]), []
    for colour, source in enumerate(told[-1]["validation"]["sdr"] if told else ()):
        y = _numbers([line["validation"]["sdr"].get(source) for line in told])
        mixture = told[-1]["validation"]["mixture"][source]
        curves.append(Curve(source, x, y, colour))
        curves.append(Curve(f"{source} in the mixture", _numbers([0, x[-1]]), _numbers([mixture] * 2), colour, True))
    return [*charts, chart("Validation SDR in dB by step", curves, 2)]


def _numbers(values: Sequence[int | float | None]) -> Float[np.ndarray, " n"]:
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _facts(report: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> str:
    # a process that did nothing, as the run was complete, did not take it up
    started = [a["started"] for a, b in pairwise(lines) if "started" in a and "started" not in b]
    # the time between the end of a process and the start of the next is nobody's
    running = sum((b["time"] - a["time"] for a, b in pairwise(lines) if "started" not in b), 0.0)
    again = max(len(started) - 1, 0)
    speed, skipped = report["examples_per_second"], report["skipped"]
    facts = {
        "devices": ", then ".join(dict.fromkeys(f"{s['devices']} x {s['device']}" for s in started)),
        "speed": f"{speed:.3g} examples/s, the median" if speed else "",
        "time": duration(running),
        "taken up": {0: "", 1: "once"}.get(again, f"{again} times"),
        "updates skipped": f"{skipped:,}, for loss or gradients that were not finite" if skipped else "",
        **told["versions"],
        "config": json.dumps(told["config"]),
    }
    return "\n".join(
        f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in facts.items() if value
    )
