"""Evaluate one system or several on the same tracks, in one process or several, and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxmss.data.tracks import Track
from jaxmss.errors import InputError
from jaxmss.evaluation import processes
from jaxmss.evaluation.excerpts import NOT_KEPT, drop_others, find_worst, read_excerpt, worst_excerpts
from jaxmss.evaluation.report import write_report
from jaxmss.evaluation.results import shown, summarise, table, write_results
from jaxmss.evaluation.run import Outcome, collect, evaluate
from jaxmss.evaluation.scores import score_track
from jaxmss.evaluation.scoring import Job
from jaxmss.evaluation.systems import System
from jaxmss.output import say


def evaluate_all(
    systems: Sequence[System], tracks: Sequence[Track], job: Job, workers: int, data: Mapping[str, Any]
) -> int:
    """Evaluate the systems in turn, print a table for each, and write the results; return 1 if a track failed, or 0.

    One system writes to the job's output itself, several to folders of their names in it. `data` says in the results
    where the tracks are. Of several processes each one takes a share of the tracks, and the first one reports; all of
    them return the same. Raises `InputError` for systems of one name, and where the engine cannot start.
    """
    names = [system.name for system in systems]
    if len(set(names)) < len(names):
        raise InputError(f"Two systems have one name ({', '.join(names)}); name each once, or rename a directory")
    _try(job.engine)
    meetings = processes.Meetings()
    every, failed = [], False
    for system in systems:
        own = job if len(systems) == 1 else replace(job, output=job.output / system.name)
        if system.unscored:
            say(f"Not scored, for the data has no such stems: {', '.join(system.unscored)}")
        for source, stems in system.sums.items():
            say(f"{source} is scored as {' + '.join(stems)}, which the run was trained on")
        mine = evaluate(system, processes.share(tracks), own, workers, say)
        told = meetings.merge(mine.failed, system.name)
        lost = {track.name: why for process, why in meetings.lost.items() for track in processes.share(tracks, process)}
        outcome = collect(own, tracks, told, lost)
        failed |= bool(outcome.failed)
        if processes.reports():
            every.append(_report(system, own, outcome, data))
    if len(every) > 1:
        say(_comparison(every))
    return int(failed)


def _report(system: System, job: Job, outcome: Outcome, data: Mapping[str, Any]) -> dict[str, Any]:
    """Write the results of a system, print its table, and return what `summarise` does."""
    found = {track: find_worst(result.scores) for track, result in outcome.results.items()}
    drop_others(job.output, found)
    scoring = {"engine": job.engine, "fit_length": job.fit_length}
    config = {**system.identity, "data": data, **scoring, "device": system.device}
    results = summarise(system.name, outcome, config)
    say(f"\n{table(results)}")  # before anything is written: the disk may be full
    worst = worst_excerpts(found)
    lost = [track for track, excerpt in worst if read_excerpt(job.output, track, excerpt.stem) is None]
    if lost:
        say(f"Of {len(lost)} of the {len(worst)} worst excerpts no audio was kept: {NOT_KEPT}")
    write_results(job.output, results)
    write_report(job.output, results, outcome, worst)
    page = (job.output / "report.html").absolute().as_uri()
    say(f"The results are in {job.output}; to see and hear them, open {page}\n")
    return results


def _try(engine: str) -> None:
    """Raise `InputError` where an engine cannot start, before anything is separated."""
    probe = {"probe": np.random.default_rng(0).normal(size=(1, 2000))}
    score_track(probe, {"probe": 0.9 * probe["probe"]}, 2000, engine=engine)


def _comparison(every: Sequence[Mapping[str, Any]]) -> str:
    """Return the systems' median SDR side by side."""
    stems = list(dict.fromkeys(stem for results in every for stem in results["stems"]))
    width = max(len(results["system"]) for results in every) + 1
    lines = [f"{'SDR':{width}}" + "".join(f"{stem:>15}" for stem in stems)]
    for results in every:
        medians = [results["stems"].get(stem, {}).get("measures", {}).get("SDR", {}).get("median") for stem in stems]
        lines.append(f"{results['system']:{width}}" + "".join(f"{shown(median):>15}" for median in medians))
    return "\n".join(lines)
