"""Time our separation: one segment, and a track. One process per measurement, as in `torch_scheme.py`.

    python benchmarks/jax_scheme.py --checkpoint DIRECTORY --segment-seconds 13
    python benchmarks/jax_scheme.py --checkpoint DIRECTORY --track-seconds 180 --segment 30 --output estimate.npy

Prints one line of JSON. Nothing is taken from a cache of compiled programs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

START = time.perf_counter()
import jax
import numpy as np
from golden_weights import wave

import jaxmss
from jaxmss import models
from jaxmss.separator import Options, separate

STARTED = time.perf_counter() - START


def matrix_product_rate() -> float:
    """GFLOP/s of a plain float32 matrix product, the best of seven."""
    size = 2048
    product = jax.jit(lambda a: a @ a)
    a = jax.numpy.ones((size, size))
    times = []
    for _ in range(8):
        start = time.perf_counter()
        product(a).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / 1e9 / min(times[1:])


def peak_rss_bytes() -> int:
    """Most memory that this process has had resident. (`getrusage` would count what its parent had before `exec`.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="directory that `jaxmss convert` wrote")
    parser.add_argument("--segment-seconds", type=float)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--track-seconds", type=float)
    parser.add_argument("--segment", type=float, default=10.0, help="seconds of the track separated at a time")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    start = time.perf_counter()
    model = jaxmss.load(options.checkpoint)
    loaded = time.perf_counter() - start
    result = {"start_up": round(STARTED, 2), "load": round(loaded, 2), "jax": jax.__version__}
    if options.segment_seconds is not None:
        mixture = wave(0, (1, 2, round(options.segment_seconds * model.sample_rate)))
        network = models.build(model.config)
        start = time.perf_counter()
        lowered = jax.jit(network.apply).lower(model.variables, mixture)
        result["trace"] = round(time.perf_counter() - start, 2)
        start = time.perf_counter()
        program = lowered.compile()
        result["compile"] = round(time.perf_counter() - start, 2)
        times = []
        for _ in range(options.repeats + 1):
            start = time.perf_counter()
            program(model.variables, mixture).block_until_ready()
            times.append(time.perf_counter() - start)
        result |= {"segment_times": [round(t, 4) for t in times[1:]], "segment_best": round(min(times[1:]), 4)}
        result["matrix_product"] = round(matrix_product_rate(), 1)
    if options.track_seconds is not None:
        scheme = Options(segment=options.segment)
        track = wave(0, (1, 2, round(options.track_seconds * model.sample_rate)))[0]
        separate(model, track[:, :1000], options=scheme)  # compiles
        start = time.perf_counter()
        stems = separate(model, track, options=scheme)
        result["track_time"] = round(time.perf_counter() - start, 3)
        if options.output:
            np.save(options.output, stems[0])
    result["peak_rss_bytes"] = peak_rss_bytes()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
