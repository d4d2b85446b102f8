"""What the command line shows: progress, reports, the list of models."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from jaxmss.audio.reading import AudioReader
from jaxmss.checkpoints.published import PUBLISHED
from jaxmss.files import Progress, Report
from jaxmss.models import ARCHITECTURES


class Bar(Progress):
    """A progress bar over the seconds of one file, with the speed as a multiple of real time."""

    def __init__(self, reader: AudioReader, name: str):
        self._bar = tqdm(
            total=reader.duration_hint,
            desc=name,
            unit="s",
            bar_format="{desc} {percentage:3.0f}% |{bar}| {n:.0f}/{total:.0f} s, {elapsed}<{remaining}, {rate_noinv_fmt}"
            if reader.duration_hint
            else "{desc} {n:.0f} s, {elapsed}, {rate_noinv_fmt}",
            disable=not sys.stderr.isatty(),
            leave=False,
        )

    def update(self, seconds: float) -> None:
        """Note that so many more seconds of audio are done."""
        self._bar.update(seconds)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def tell(reports: Iterable[Report], output: Path) -> int:
    """Print a line for each report as it comes, failures again at the end; return the exit status.

    0 if all went well, 1 if some inputs failed, 2 if all did.
    """
    done, failed = 0, []
    for report in reports:
        if report.error is not None:
            failed.append(report)
            continue
        done += 1
        if report.kept:
            print(f"{report.path}: kept, its stems exist already (--overwrite replaces them)")
            continue
        speed = report.seconds / report.elapsed
        line = f"{report.path}: {report.seconds:.1f} s in {report.elapsed:.1f} s, {speed:.2g} x real time"
        if report.clipped:
            counts = ", ".join(f"{count} in {stem}" for stem, count in report.clipped.items())
            line += f"; samples beyond full scale: {counts}"
            line += f"; all stems scaled by {report.gain:.3f}" if report.gain != 1 else ""
        print(line)
    for report in failed:
        print(f"jaxmss: {report.error}", file=sys.stderr)
    if done:
        print(f"{done} of {done + len(failed)} in {output}")
    return 0 if not failed else 1 if done else 2


def list_models() -> None:
    """Print the architectures and the published weights as two tables."""
    print("Architectures\n")
    for name, config in ARCHITECTURES.items():
        print(f"  {name:22} {config.subbands} subbands, {', '.join(config.sources)}")
    print("\nPublished weights\n")
    for name, weights in PUBLISHED.items():
        scores = ", ".join(f"{source} {score} dB" for source, score in weights.scores.items())
        print(f"  {name:36} {scores}")
