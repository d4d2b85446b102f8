"""Compare our separation with the PyTorch twin on this machine, in turns, each measurement in a process of its own.

    python benchmarks/separation.py [--rounds 3] [--track-seconds 180]

Prints the tables of the README: one 13 s segment of `cws-vocals`, and a track by the published scheme and by ours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
from golden_weights import golden_state_dict, names
from torch_twins import make_twin

from jaxmss.checkpoints.convert import convert

LONG = 60  # seconds of a track at a time, where the published scheme takes 10
SEGMENT = ["--segment-seconds", "13", "--repeats", "3"]


def measure(script: str, checkpoint: Path, *arguments: str) -> dict:
    """Run a script of this folder, with no compiled programs at hand, and return the JSON that it prints."""
    command = [sys.executable, str(HERE / script), "--checkpoint", str(checkpoint), *arguments]
    with tempfile.TemporaryDirectory() as cache:
        surroundings = {**os.environ, "JAXMSS_CACHE": cache}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=surroundings)
    return json.loads(done.stdout.splitlines()[-1])


def write_checkpoints(folder: Path) -> tuple[Path, Path]:
    """Write the golden weights as a PyTorch file, and convert it: (file, directory)."""
    file, directory = folder / "golden.ckpt", folder / "golden"
    state = {name: torch.from_numpy(array) for name, array in golden_state_dict(names("cws-vocals")).items()}
    torch.save({"state_dict": state}, file)
    convert("cws-vocals", file, directory)
    return file, directory


def direct_gflop(seconds: float) -> float:
    """GFLOP of one segment, counted with direct convolutions."""
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network = make_twin("cws-vocals").to("meta")
        frames = -(-(round(seconds * 44100) // 4 // 110 + 1) // 64) * 64
        network.maps(torch.zeros(1, 8, frames, 257))
    return counter.get_total_flops() / 1e9


def sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    return 10 * np.log10(np.sum(reference**2, dtype=float) / np.sum((reference - estimate) ** 2, dtype=float))


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def segments(file: Path, directory: Path, rounds: int) -> None:
    results: dict[str, list[dict]] = {"jaxmss": [], "PyTorch, default": [], "PyTorch, channels-last": []}
    for _ in range(rounds):
        results["jaxmss"].append(measure("jax_scheme.py", directory, *SEGMENT))
        results["PyTorch, default"].append(measure("torch_scheme.py", file, *SEGMENT))
        channels_last = ["--layout", "channels_last", *SEGMENT]
        results["PyTorch, channels-last"].append(measure("torch_scheme.py", file, *channels_last))
    gflop = direct_gflop(13)
    ours = statistics.median(r["segment_best"] for r in results["jaxmss"])
    row("13 s segment", "seconds (best of each round)", "GFLOP/s", "jaxmss is faster by", "peak memory")
    row(*["---"] * 5)
    for name, runs in results.items():
        times = [r["segment_best"] for r in runs]
        typical = statistics.median(times)
        memory = max(r["peak_rss_bytes"] for r in runs) / 1e9
        shown = ", ".join(f"{t:.2f}" for t in times)
        row(name, shown, f"{gflop / typical:.0f}", f"{typical / ours:.2f}x", f"{memory:.2f} GB")
    best = {key: min(r[key] for r in results["jaxmss"]) for key in ("start_up", "load", "trace", "compile")}
    print(
        f"\nGFLOP/s count {gflop:.0f} GFLOP of direct convolutions; a plain matrix product runs at "
        f"{max(r['matrix_product'] for r in results['jaxmss']):.0f}. jaxmss imports in {best['start_up']:.1f} s, loads "
        f"in {best['load']:.1f} s, traces in {best['trace']:.1f} s, compiles in {best['compile']:.1f} s (once).\n"
    )


def tracks(file: Path, directory: Path, seconds: float) -> None:
    length = ["--track-seconds", str(seconds)]
    out = {name: directory.parent / f"{name}.npy" for name in ("torch", "published", "long")}
    runs = {
        "PyTorch, published scheme": measure("torch_scheme.py", file, *length, "--output", str(out["torch"])),
        "jaxmss, published scheme": measure("jax_scheme.py", directory, *length, "--output", str(out["published"])),
        f"jaxmss, --segment {LONG}": measure(
            "jax_scheme.py", directory, *length, "--segment", str(LONG), "--output", str(out["long"])
        ),
    }
    slowest = runs["PyTorch, published scheme"]["track_time"]
    expected = np.load(out["torch"])
    row(
        f"{seconds:.0f} s track",
        "seconds",
        "x real time",
        "faster by",
        "difference from PyTorch's output",
        "peak memory",
    )
    row(*["---"] * 6)
    for (name, run), path in zip(runs.items(), out.values(), strict=True):
        time, memory = run["track_time"], run["peak_rss_bytes"] / 1e9
        difference = "" if name.startswith("PyTorch") else f"{-sdr(expected, np.load(path)):.0f} dB"
        row(name, f"{time:.1f}", f"{seconds / time:.2f}", f"{slowest / time:.2f}x", difference, f"{memory:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--track-seconds", type=float, default=180)
    options = parser.parse_args()
    print(f"{cpu()}, {torch.get_num_threads()} threads, jax {jax.__version__}, torch {torch.__version__}\n")
    with tempfile.TemporaryDirectory() as folder:
        file, directory = write_checkpoints(Path(folder))
        segments(file, directory, options.rounds)
        tracks(file, directory, options.track_seconds)


def cpu() -> str:
    """Name the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
