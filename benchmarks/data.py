"""Examples a second that the data pipeline delivers: four independent stems, 3 s of stereo at 44.1 kHz each.

    python benchmarks/data.py [--threads 2] [--rounds 5]

Makes 20 songs of a minute, reads them from the page cache, and prints a table: from WAV files and from a prepared data
set, and beside them the same examples mixed to float32 on the host. All take turns, and the best of the rounds counts.
The rate for each CPU second tells more on a machine that is busy with other things.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from jaxmss.audio.wav import wav_header
from jaxmss.data.batches import batches
from jaxmss.data.build import build
from jaxmss.data.clips import FULL_SCALE, Song
from jaxmss.data.mixing import Batch
from jaxmss.data.songs import training_songs
from jaxmss.data.tracks import STEMS
from jaxmss.models import architecture
from jaxmss.training.config import Data, Part

SONGS, MINUTE = 20, 60
BATCH = 32
NETWORK = architecture("cws-vocals")
DATA = Data(parts=tuple(Part(stem, (stem,)) for stem in STEMS), seconds=3.0, batch=BATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=16, help=f"batches of {BATCH} examples in a round")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_songs(Path(folder, "wav", "train"))
        build(Path(folder, "wav"), Path(folder, "records"))
        data = replace(DATA, root=str(Path(folder, "wav")), threads=args.threads)
        wav = training_songs(data, NETWORK)
        records = training_songs(replace(data, root=str(Path(folder, "records"))), NETWORK)
        contestants = {
            "WAV": partial(delivered, wav, data),
            "ArrayRecord": partial(delivered, records, data),
            "WAV, mixed to float32 on the host": partial(mixed_on_host, wav, data),
        }
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
        for turn in range(args.rounds):
            for name, deliver in contestants.items():
                results[name].append(measure(deliver(turn * args.steps, (turn + 1) * args.steps)))
    print(f"{os.cpu_count()} cores, {args.threads} threads; examples a second")
    print("| source | by the clock, best | median | for each CPU second, best |")
    print("|---|---|---|---|")
    for name, rates in results.items():
        clock, cpu = zip(*rates, strict=True)
        print(f"| {name} | {max(clock):,.0f} | {np.median(clock):,.0f} | {max(cpu):,.0f} |")


def measure(delivery: Iterator[int]) -> tuple[float, float]:
    """Return examples for each second and for each CPU second."""
    start, cpu = time.perf_counter(), time.process_time()
    examples = sum(delivery)
    return examples / (time.perf_counter() - start), examples / (time.process_time() - cpu)


def delivered(songs: list[Song], data: Data, start: int, stop: int) -> Iterator[int]:
    for batch in batches(songs, data, NETWORK.sample_rate, NETWORK.channels, 0, start, stop):
        yield len(batch.pcm)


def mixed_on_host(songs: list[Song], data: Data, start: int, stop: int) -> Iterator[int]:
    """Make what a float32 pipeline sends to the device: mixtures and four targets."""
    for batch in batches(songs, data, NETWORK.sample_rate, NETWORK.channels, 0, start, stop):
        yield len(float_mixtures(batch)[0])


def float_mixtures(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    stems = np.asarray(batch.pcm).astype(np.float32) * (batch.gain / FULL_SCALE)[..., None, None]
    stems = np.ascontiguousarray(stems.transpose(0, 1, 3, 2))
    return stems.sum(axis=1), stems


def write_songs(split: Path) -> None:
    random = np.random.default_rng(0)
    samples = MINUTE * NETWORK.sample_rate
    noise = random.integers(-8000, 8000, (samples, NETWORK.channels)).astype("<i2")
    header = wav_header(noise.nbytes, NETWORK.sample_rate, NETWORK.channels, 16)
    for song in range(SONGS):
        (split / str(song)).mkdir(parents=True)
        for stem in STEMS:
            shifted = np.roll(noise, int(random.integers(samples)), axis=0)
            (split / str(song) / f"{stem}.wav").write_bytes(header + shifted.tobytes())


if __name__ == "__main__":
    main()
