"""CPU time and peak memory of the scores, ours against museval's, on one synthetic track of four stereo stems.

    python benchmarks/scores.py [--seconds 240] [--rounds 1]

Each measurement runs in a process of its own, which makes the track, imports what it needs, and then scores it; the
contestants take turns. CPU time is user and system time of the scoring alone, over all threads. Peak memory is the
resident set of the whole process, the stems (float32) included. museval needs ffmpeg on the PATH.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

RATE = 44100
CONTESTANTS = {  # name: engine and measures
    "museval, all measures": ("museval", ("SDR", "ISR", "SIR", "SAR")),
    "jaxmss, all measures": ("jaxmss", ("SDR", "ISR", "SIR", "SAR")),
    "jaxmss, SDR alone": ("jaxmss", ("SDR",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=240, help="length of the track")
    parser.add_argument(
        "--rounds", type=int, default=1, help="how often each contestant takes its turn; the best counts"
    )
    parser.add_argument("--contestant", choices=CONTESTANTS, help="measure this one in this process and print JSON")
    args = parser.parse_args()
    if args.contestant:
        print(json.dumps(measure(args.contestant, args.seconds)))
        return
    results: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    for _ in range(args.rounds):
        for name in CONTESTANTS:
            results[name].append(in_own_process(name, args.seconds))
    print_table({name: min(runs, key=lambda run: run["cpu"]) for name, runs in results.items()}, args)


def measure(contestant: str, seconds: int) -> dict[str, float]:
    """Score the track in this process: CPU seconds, peak memory in GB and the mean score, to see that work was done."""
    from jaxmss.evaluation import score_track

    engine, measures = CONTESTANTS[contestant]
    if engine == "museval":
        import museval  # noqa: F401 (its import is not what is measured)
    references, estimates = track(seconds)
    before = resource.getrusage(resource.RUSAGE_SELF)
    scores = score_track(references, estimates, RATE, measures, engine)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "memory": after.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9,
        "sdr": float(np.mean([stem["SDR"] for stem in scores.values()])),
    }


def track(seconds: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Make four stems of noise, and estimates of them with noise 10 dB below."""
    rng = np.random.default_rng(0)
    shape = (2, seconds * RATE)
    references = {s: rng.standard_normal(shape, np.float32) for s in ("vocals", "drums", "bass", "other")}
    estimates = {stem: rng.standard_normal(shape, np.float32) for stem in references}
    for stem, estimate in estimates.items():
        estimate *= np.float32(10**-0.5)
        estimate += references[stem]
    return references, estimates


def in_own_process(contestant: str, seconds: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--contestant", contestant, "--seconds", str(seconds)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def print_table(best: dict[str, dict[str, float]], args: argparse.Namespace) -> None:
    museval = best["museval, all measures"]["cpu"]
    print(f"Scores of 4 stereo stems, {args.seconds} s at {RATE} Hz, best of {args.rounds}. {machine()}\n")
    print("| engine | CPU time | museval / this | peak memory | mean SDR |")
    print("|---|---|---|---|---|")
    for name, run in best.items():
        times, memory, sdr = f"{museval / run['cpu']:.1f}x", f"{run['memory']:.2f} GB", f"{run['sdr']:.6f} dB"
        print(f"| {name} | {run['cpu']:.2f} s | {times} | {memory} | {sdr} |")


def machine() -> str:
    """Name the processor and the versions that the figures depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "scipy", "museval"))
    processor = models[0] if models else platform.processor()
    return f"{processor}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}."


if __name__ == "__main__":
    main()
