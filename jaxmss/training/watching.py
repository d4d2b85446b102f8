"""What process 0 tells of a run: lines on stderr, ``RUN/metrics.jsonl``, and ``RUN/tensorboard``.

    with Watch(run, config, first) as watch:  # steps are counted from 1, and `first` are done already
        state, metrics = take_step(state, batch)
        watch.step(step, metrics)             # after each: it keeps device arrays, and looks one step later
        watch.flush(saved=True)               # before a checkpoint: its step is told, should the process end there
        with watch.paused():                  # whose time is not that of steps
            watch.validation(step, result)    # after one

The metrics of a step are fetched when the next one has been handed to the devices, which so never wait for the host.

``metrics.jsonl`` has a JSON object on each line, ``null`` for what is not a finite number. Each has ``step`` and
``time`` (seconds since 1970), and then one of:

* every `watch.every` steps ``loss``, ``learning_rate``, ``gradient_norm``, ``skipped`` (in a row), ``skipped_total``,
  and ``loss_mean`` over the steps since the last line, ``examples_per_second``, ``hours`` (of audio seen) and
  ``memory`` (greatest so far, in bytes);
* ``validation``: ``mean``, ``sdr`` and ``mixture`` by source, ``tracks``, ``over``, ``failed``, ``seconds`` (see
  `Result`);
* ``started``: ``device`` and ``devices`` of a process that begins or takes up the run;
* ``losses`` since the last line, with a checkpoint between two lines: for the ``loss_mean`` of the next.

A run that is taken up again drops the lines after its checkpoint: no step is told twice.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmss.audio.aside import reporting, written_aside
from jaxmss.checkpoints.runs import CONFIG
from jaxmss.output import duration
from jaxmss.training.config import Config
from jaxmss.training.tensorboard import Board
from jaxmss.training.validation import Result

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"


class Watch:
    """Tells how a run goes. In processes other than the first every method does nothing.

    Raises `InputError` where `run` cannot be written to.
    """

    def __init__(self, run: Path, config: Config, first: int):
        self._tells = jax.process_index() == 0
        self._held: list[tuple[int, Mapping[str, jax.Array]]] = []  # steps that no line has told of yet
        self._since: float | None = None  # when the first of them began
        if not self._tells:
            return
        self._config, self._first, self._steps = config, first, config.steps(config.hours)
        self._began = 0.0  # when this process's first step did
        self._file = MetricsFile(run / METRICS, first)
        self._untold = self._file.untold  # losses of the process before
        self._board = Board(run / TENSORBOARD, first)
        self._board.text(first, "config", (run / CONFIG).read_text())
        device, devices = jax.devices()[0].device_kind, jax.device_count()
        self._file.write({"step": first, "started": {"device": device, "devices": devices}})
        if first < self._steps:
            _say(f"{self._steps - first:,} steps to go on {devices} x {device}; the first is being compiled")
        else:
            _say(f"complete: {first:,} steps are done, and {self._steps:,} were asked for")
        self._profile = Profile(run / TENSORBOARD, *config.watch.profile)
        self._profile.before(first + 1)

    def step(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Note a step that has been handed to the devices, and tell of the ones before if a line is due."""
        if not self._tells:
            return
        self.flush()
        if self._since is None:  # the first step is compiled by now, and begins
            self._since = self._began = time.perf_counter()
        self._held.append((step, metrics))
        self._profile.before(step + 1, metrics)

    def validation(self, step: int, result: Result) -> None:
        """Tell what a validation after `step` found."""
        if not self._tells:
            return
        seen = self._file.validated
        if seen == step:  # by the process before, which ended before it noted the score
            return
        self._board.scalars(step, {"sdr/mean": result.mean} | {f"sdr/{s}": value for s, value in result.sdr.items()})
        self._board.excerpts(step, result.excerpts, fixed=seen is None)
        # last, as it says that this validation is told: a process that ends before it leaves it to the next one
        values = {"mean": result.mean, "sdr": result.sdr, "mixture": result.mixture, "tracks": result.tracks}
        values |= {"over": result.over, "failed": result.failed, "seconds": result.seconds}
        self._file.write({"step": step, "validation": values})
        _say(f"step {step:,}: {validation_line(result)}")
        for name, why in result.failed.items():
            _say(f"step {step:,}: validation of {name!r} failed: {why}")

    def flush(self, saved: bool = False) -> None:
        """Wait for the last step and tell of it, if a line is due after it.

        If none is, and the step is to be saved, its losses are noted for a process that goes on from there.
        """
        if not self._tells or not self._held or self._since is None:
            return
        step = self._held[-1][0]
        due = step % self._config.watch.every == 0 or step == self._steps
        if not due and not saved:
            return
        fetched = jax.device_get([metrics for _, metrics in self._held])
        losses = np.array([*self._untold, *(metrics["loss"] for metrics in fetched)], np.float64)
        if not due:
            self._file.write({"step": step, "losses": losses.tolist()})
            return
        now = time.perf_counter()
        losses = losses[np.isfinite(losses)]
        data = self._config.data
        values = {
            **{name: value.item() for name, value in fetched[-1].items()},
            "loss_mean": losses.mean().item() if losses.size else math.nan,
            "examples_per_second": data.batch * len(fetched) / (now - self._since),
            "hours": step * data.batch * data.seconds / 3600,
            "memory": memory(),
        }
        self._file.write({"step": step, **values})
        self._board.scalars(step, {f"train/{name}": value for name, value in values.items()})
        left = (now - self._began) / (step - self._first) * (self._steps - step)
        _say(progress_line(step, self._steps, values, left))
        self._held, self._since, self._untold = [], now, []

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the body, which begins when all steps have ended, out of theirs."""
        if self._held:
            jax.block_until_ready(self._held[-1][1])
        began = time.perf_counter()
        yield
        if self._since is not None:
            self._since += time.perf_counter() - began

    def close(self) -> None:
        """Finish the files. What is held of the last steps is not told: see `flush`."""
        if not self._tells:
            return
        self._profile.close()
        self._board.close()
        self._file.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if error is None:  # else the devices, or the disk, may be what failed
                self.flush()
        finally:
            self.close()


class MetricsFile:
    """Appends to ``metrics.jsonl``, after dropping what lies beyond step `first` and lines cut short by a kill.

    Attributes:
      validated: last step that a validation was told of, or None.
      untold: losses up to step `first` that no line tells the mean of.

    Raises `InputError` if the file cannot be written.
    """

    def __init__(self, path: Path, first: int):
        self.validated: int | None = None
        self._path = path
        kept = [line for line in _lines(path) if line["step"] <= first]
        with written_aside([path]) as [file], reporting(path):
            file.write("".join(_encoded(line) for line in kept).encode())
        for line in kept:
            self._note(line)
        untold: list[float | None] = next(
            (line["losses"] for line in kept if line["step"] == first and "losses" in line), []
        )
        self.untold = [math.nan if loss is None else loss for loss in untold]
        with reporting(path):
            self._file = path.open("a", encoding="utf-8")

    def write(self, values: Mapping[str, Any]) -> None:
        """Append a line, with the time."""
        line = {"step": values["step"], "time": round(time.time(), 3), **values}
        with reporting(self._path):
            self._file.write(_encoded(line))
            self._file.flush()
        self._note(line)

    def close(self) -> None:
        """Close the file; all is written already."""
        with suppress(OSError):  # what a full disk refused is told already
            self._file.close()

    def _note(self, line: Mapping[str, Any]) -> None:
        if "validation" in line:
            self.validated = line["step"]


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's ``metrics.jsonl``, none if there is no such file; a line cut short is left out."""
    return list(_lines(run / METRICS))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for text in path.read_text("utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                yield line


def _encoded(line: Mapping[str, Any]) -> str:
    return json.dumps(_finite(line), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """Replace numbers that JSON lacks by None, at any depth."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Profile:
    """Records steps `first` to ``first + count - 1`` for TensorBoard's profiler, into ``plugins/profile`` there."""

    def __init__(self, directory: Path, first: int, count: int):
        self._directory, self._steps, self._running = directory, range(first, first + count), False

    def before(self, step: int, earlier: Any = None) -> None:
        """Start or stop recording if that is due before `step`, once the arrays `earlier` of other steps are there."""
        if (step in self._steps) == self._running:
            return
        jax.block_until_ready(earlier)
        if self._running:
            jax.profiler.stop_trace()
        else:
            jax.profiler.start_trace(str(self._directory))
        self._running = not self._running

    def close(self) -> None:
        """Stop recording."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False


def memory() -> int:
    """Return the most bytes in use so far: on the first device if it counts them, else of this process."""
    peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def progress_line(step: int, steps: int, values: Mapping[str, float], left: float) -> str:
    """Return the line of a step of `steps`; `values` as in ``metrics.jsonl``, `left` in seconds."""
    skipped = f", {values['skipped_total']:,} skipped" if values["skipped_total"] else ""
    parts = (
        f"step {step:,}/{steps:,}{skipped}",
        f"loss {values['loss_mean']:.4g}",
        f"lr {values['learning_rate']:.3g}",
        f"gradient {values['gradient_norm']:.3g}",
        f"{values['examples_per_second']:.3g} examples/s",
        f"{values['hours']:.3g} h seen",
        f"{values['memory'] / 2**30:.2f} GiB",
        f"{duration(left)} left",
    )
    return "  ".join(parts)


def validation_line(result: Result) -> str:
    """Return the medians of a validation as text."""
    sources = ", ".join(f"{s} {sdr:.2f} (mixture {result.mixture[s]:.2f})" for s, sdr in result.sdr.items())
    scored = len(result.tracks) - len(result.failed)
    tracks = "1 track" if scored == 1 else f"{scored} tracks"
    return f"median SDR in dB over {tracks}: {sources}; {duration(result.seconds)}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
