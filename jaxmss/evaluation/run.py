"""Evaluate a system on tracks: this process separates, others score, each track is written when it is done."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxmss.data.tracks import Track
from jaxmss.errors import InputError
from jaxmss.evaluation.aggregation import median_over_frames
from jaxmss.evaluation.excerpts import drop_others, find_worst
from jaxmss.evaluation.scoring import Excluded, Job, drop, prepared, score, stored
from jaxmss.evaluation.systems import System
from jaxmss.evaluation.track_file import TrackResult, read_json, write_json
from jaxmss.output import duration
from jaxmss.workers import single_threaded, worker_pool


@dataclass
class Outcome:
    """What came of the tracks, by name: scores, why BSS Eval excludes one, or why one failed."""

    results: dict[str, TrackResult] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def evaluate(
    system: System, tracks: Sequence[Track], job: Job, workers: int, tell: Callable[[str], None] = lambda line: None
) -> Outcome:
    """Separate and score `tracks`; return what came of each, in their order.

    Separation of one track overlaps the scoring of earlier ones in `workers` processes. Tracks that an earlier run has
    done are not repeated, unless files that they were made from are others now; one that fails is noted and does
    not stop the others. `tell` gets a line for each.

    Raises `InputError` if the output holds the results of another evaluation, `AudioError` if it cannot be written.
    """
    _claim(job, system)
    outcome = Outcome()
    todo = []
    for track in tracks:
        earlier = _still_valid(system, track, job.output)
        if earlier is None:
            todo.append(track)
        else:
            _note(outcome, track, earlier)
    if len(todo) < len(tracks):
        tell(f"{len(tracks) - len(todo)} of {len(tracks)} tracks were done before")
    worst = {name: find_worst(result.scores) for name, result in outcome.results.items()}
    start = time.perf_counter()
    for done, (track, error) in enumerate(_run(system, todo, job, workers), start=1):
        if error is not None:
            outcome.failed[track.name] = _told(error)
        elif (found := stored(job.output, track.name)) is not None:
            _note(outcome, track, found)
        else:
            outcome.failed[track.name] = "it left no scores"
        if track.name in outcome.results:
            worst[track.name] = find_worst(outcome.results[track.name].scores)
            drop_others(job.output, worst)
        left = (time.perf_counter() - start) / done * (len(todo) - done)
        tell(f"[{len(tracks) - len(todo) + done}/{len(tracks)}] {_line(outcome, track.name)}; {duration(left)} left")
    return collect(job, tracks, outcome.failed)


def collect(
    job: Job, tracks: Sequence[Track], failed: Mapping[str, str], lost: Mapping[str, str] | None = None
) -> Outcome:
    """Return what came of each track, in their order: as it stands in the output, or why it failed.

    `lost` tells why tracks of which nothing stands there may not have been scored.
    """
    outcome = Outcome()
    for track in tracks:
        if track.name in failed:
            outcome.failed[track.name] = failed[track.name]
        elif (found := stored(job.output, track.name)) is not None:
            _note(outcome, track, found)
        else:
            elsewhere = f"its scores are not in {str(job.output)!r}; processes must share the folder"
            outcome.failed[track.name] = (lost or {}).get(track.name, elsewhere)
    return outcome


def _still_valid(system: System, track: Track, output: Path) -> TrackResult | Excluded | None:
    """Return what an earlier run made of a track, or None; what came of other files than there are now is dropped."""
    earlier = stored(output, track.name)
    if earlier is None or earlier.inputs == _inputs(system, track):
        return earlier
    drop(output, track.name)
    return None


def _inputs(system: System, track: Track) -> str:
    """Return a digest of the files that a track's scores come from: their names, sizes and times."""
    files = [file for file in (*track.inputs(), *system.files(track)) if file.is_file()]
    told = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(files)]
    return hashlib.blake2b(repr(told).encode(), digest_size=16).hexdigest()


def _run(
    system: System, tracks: Sequence[Track], job: Job, workers: int
) -> Iterator[tuple[Track, BaseException | None]]:
    """Yield every track when it is scored, or with the error that it failed with."""
    running: dict[Future, Track] = {}
    with _Pool(workers) as pool:
        for track in tracks:
            inputs = _inputs(system, track)
            try:
                estimates = system.estimate(track)
            except Exception as error:  # whatever it is, the other tracks are worth their scores
                yield track, error
                continue
            # one more than there are processes may wait: more would only fill memory with estimates
            yield from _finished(running, timeout=None if len(running) > workers else 0.0)
            running[pool.submit(score, job, track, estimates, inputs, system.sums)] = track
        while running:
            yield from _finished(running, timeout=None)


def _finished(running: dict[Future, Track], timeout: float | None) -> Iterator[tuple[Track, BaseException | None]]:
    """Yield the tracks that are scored, waiting for the first of them up to `timeout` seconds (None: for ever)."""
    for future in wait(running, timeout, FIRST_COMPLETED).done:
        yield running.pop(future), future.exception()


class _Pool:
    """Processes that score, of one thread each. When one is killed, all of them are replaced."""

    def __init__(self, workers: int):
        self._workers = workers
        self._open()

    def _open(self) -> None:
        self._pool = worker_pool(self._workers)

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, *task: Any) -> Future:
        with single_threaded():  # the first task starts the processes
            try:
                return self._pool.submit(*task)
            except BrokenProcessPool:
                self._pool.shutdown()
                self._open()
                return self._pool.submit(*task)


def _claim(job: Job, system: System) -> None:
    """Note in the output what its results come from, or check that earlier results there come from the same."""
    path = prepared(job.output / "run.json")
    run = {**system.identity, "engine": job.engine, "fit_length": job.fit_length, "data": job.data}
    if not path.exists():
        write_json(path, run)
        return
    earlier = read_json(path)
    differing = [key for key in {**earlier, **run} if earlier.get(key) != run.get(key)]
    if differing:
        key = differing[0]
        raise InputError(
            f"{str(job.output)!r} holds results of another evaluation ({key} {earlier.get(key)!r}, now "
            f"{run.get(key)!r}); choose another output"
        )


def _note(outcome: Outcome, track: Track, found: TrackResult | Excluded) -> None:
    if isinstance(found, TrackResult):
        outcome.results[track.name] = found
    else:
        outcome.excluded[track.name] = found.reason


def _told(error: BaseException) -> str:
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, BrokenProcessPool):
        return "the process that scored it, or one beside it, was killed (out of memory?); run again to score it"
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _line(outcome: Outcome, name: str) -> str:
    if name in outcome.failed:
        return f"{name}: failed: {outcome.failed[name]}"
    if name in outcome.excluded:
        return f"{name}: excluded: {outcome.excluded[name]}"
    result = outcome.results[name]
    medians = [f"{stem} {median_over_frames(measures['SDR']):.2f}" for stem, measures in result.scores.items()]
    fitted = "".join(f"; {told}" for told in result.fitted)
    return f"{name}: SDR {', '.join(medians)} dB{fitted}"
