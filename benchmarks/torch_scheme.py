"""Time the PyTorch twin: one segment, and the published scheme over a track. One process per measurement.

    python benchmarks/torch_scheme.py --checkpoint FILE --layout channels_last --segment-seconds 13
    python benchmarks/torch_scheme.py --checkpoint FILE --track-seconds 180 --output estimate.npy

The input is `wave(0, (1, 2, samples))`, white noise. Prints one line of JSON; the peak memory is the whole process's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from golden_weights import wave
from torch_twins import ARCHITECTURES, Twin, make_twin, separate_track

RATE = 44100
SEGMENT_SECONDS, CONTEXT_SECONDS = 10.0, 1.5  # the published track scheme
LAYOUTS = {"default": torch.contiguous_format, "channels_last": torch.channels_last}


def build(arch: str, layout: str, checkpoint: Path) -> Twin:
    """The twin with the weights of a PyTorch file, in the `default` or `channels_last` layout."""
    twin = make_twin(arch)
    twin.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    return twin.to(memory_format=LAYOUTS[layout])


def noise(seconds: float) -> torch.Tensor:
    return torch.from_numpy(wave(0, (1, 2, round(seconds * RATE))))


def time_segment(twin: Twin, seconds: float, repeats: int) -> list[float]:
    """Seconds that each of `repeats` runs of one segment took, after one run to warm up."""
    audio = noise(seconds)
    times = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            twin(audio)
            times.append(time.perf_counter() - start)
    return times[1:]


def time_track(twin: Twin, seconds: float) -> tuple[float, np.ndarray]:
    """Seconds that the published scheme takes for a track, and its output (j * c, t)."""
    track = noise(seconds)
    start = time.perf_counter()
    with torch.inference_mode():
        output = separate_track(twin, track, round(SEGMENT_SECONDS * RATE), round(CONTEXT_SECONDS * RATE))
    return time.perf_counter() - start, output[0].numpy()


def peak_rss_bytes() -> int:
    """Most memory that this process has had resident. (`getrusage` would count what its parent had before `exec`.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=ARCHITECTURES, default="cws-vocals")
    parser.add_argument("--layout", choices=LAYOUTS, default="default")
    parser.add_argument("--checkpoint", type=Path, required=True, help="PyTorch file, loaded as its users do")
    parser.add_argument("--segment-seconds", type=float, help="time one segment of this length")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of the segment, after one to warm up")
    parser.add_argument("--track-seconds", type=float, help="time the published scheme over a track of this length")
    parser.add_argument("--output", type=Path, help="save the track's output, (j * c, t) float32, as .npy")
    options = parser.parse_args()
    if options.segment_seconds is None and options.track_seconds is None:
        parser.error("nothing to time: give --segment-seconds or --track-seconds")
    if options.output and options.track_seconds is None:
        parser.error("--output saves the output of a track: give --track-seconds")
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {options.repeats}")

    twin = build(options.arch, options.layout, options.checkpoint)
    result = {"arch": options.arch, "layout": options.layout}
    if options.segment_seconds is not None:
        times = time_segment(twin, options.segment_seconds, options.repeats)
        result |= {"segment_seconds": options.segment_seconds, "segment_times": [round(t, 4) for t in times]}
        result |= {"segment_best": round(min(times), 4), "segment_median": round(statistics.median(times), 4)}
    if options.track_seconds is not None:
        elapsed, output = time_track(twin, options.track_seconds)
        result |= {"track_seconds": options.track_seconds, "track_time": round(elapsed, 3)}
        if options.output:
            np.save(options.output, output)
    result |= {"torch": torch.__version__, "threads": torch.get_num_threads(), "peak_rss_bytes": peak_rss_bytes()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
