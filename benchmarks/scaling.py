"""Print the tables of `docs/scaling.md`: what a training step takes of a TPU, and how long runs should last.

    python benchmarks/scaling.py

The programs that the TPU's compiler made are read from `benchmarks/tpu.json` (`benchmarks/tpu_compile.py`). For GPUs
the step is traced, and every convolution and matrix product is held against the chip's peaks. The assumptions are the
constants below.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import tpu_compile as tpu
from tpu_program import Work, operations

from jaxmss.training import sharding
from jaxmss.training.command import config_of
from jaxmss.training.config import Config
from jaxmss.training.state import TrainState, initial_state

jax.config.update("jax_platforms", "cpu")  # steps are traced only

RESULTS = Path(__file__).parent / "tpu.json"
CONFIGS = ("cws_small", "cws_vocals", "cws_joint", "resunet143_subband", "resunet143_ismir2021", "mobilenet_subband")
EXAMPLES_PER_HOUR = 1200  # of 3 s

# an H100 SXM: peaks of its data sheet, and the shares of them that are assumed
H100_FLOPS, H100_BYTES, H100_LINK = 0.5 * 989e12, 0.75 * 3.35e12, 0.75 * 450e9
H100_REDUCE = 20e-6  # seconds that the shortest all-reduce takes
REDUCES = 3  # all-reduces for each batch norm
PASSES = 14 / 6  # over images, norms and activations counted, for one of the convolutions themselves: see the document
UPDATES = 2.4  # times the bytes of the state: its five arrays are read and written, the gradients made and read

# a v5e: half of the links of a chip, a microsecond a hop there and back over both axes
ICI_LINK, ICI_HOP = 100e9, 1e-6
HOPS = {"v5e:4x4": 2 * (3 + 3), "v5e:16x16": 2 * (8 + 8)}  # the larger slice is a torus


SLICES = {"v5e:4x4": 16, "v5e:16x16": 256}


@dataclass(frozen=True)
class Step:
    """What a step should take.

    Attributes:
      machine: that takes it.
      batch: examples in it.
      seconds: by the assumptions.
      doubt: how many times longer it may take.
      note: on how the seconds were found.
    """

    machine: str
    batch: int
    seconds: float
    doubt: int = 1
    note: str = ""

    def row(self, name: str, hours: float) -> str:
        """Return a line of the table, with the days that so many hours of audio take."""
        days = hours * EXAMPLES_PER_HOUR / self.batch * self.seconds / 86400
        shown = (
            (self.seconds * 1e3, self.seconds * 1e3 * self.doubt, ".0f"),
            (self.batch / self.seconds / self.doubt, self.batch / self.seconds, ".0f"),
            (days, days * self.doubt, ".2g"),
        )
        cells = [f"{low:{form}}" if self.doubt == 1 else f"{low:{form}} to {high:{form}}" for low, high, form in shown]
        return f"| {name} | {self.machine} | {self.batch} | {' | '.join(cells)} | {self.note} |"


def main() -> None:
    known = [tpu.from_json(values) for values in json.loads(RESULTS.read_text())]
    known.sort(key=lambda one: (*_group(one), one.examples))
    print(tpu.HEADER)
    for one in known:
        alike = [other for other in known if _group(other) == _group(one)]
        if one.examples in (alike[0].examples, *tpu.largest(alike)):
            print(tpu.row(one))
    print(f"\n{tpu.CAPACITY_HEADER}")
    for key in dict.fromkeys(_group(one)[:3] for one in known):
        print(tpu.capacity_row([one for one in known if _group(one)[:3] == key]))
    print("\n| config | parameters | TFLOP an example | batch | hours of audio | steps |\n|---|---|---|---|---|---|")
    for name in CONFIGS:
        config = config_of(tpu.CONFIGS / f"{name}.py")
        batch, flops = config.data.batch, sum(one.flops * times for one, times in convolutions(config))
        parameters = sum(leaf.size for leaf in jax.tree.leaves(abstract_state(config).params)) / 1e6
        cells = [f"{parameters:.1f} M", f"{flops / batch / 1e12:.3f}", f"{batch}", f"{config.hours:,.0f}"]
        print(f"| {name} | {' | '.join(cells)} | {config.hours * EXAMPLES_PER_HOUR / batch:,.0f} |")
    print("\n| config | machine | batch | step, ms | examples/s | days | |\n|---|---|---|---|---|---|---|")
    for name in CONFIGS:
        config = config_of(tpu.CONFIGS / f"{name}.py")
        ours = [one for one in known if one.config == name and one.dtype == "bfloat16" and one.compiles]
        for step in (*on_gpus(config), *on_tpus(config, ours)):
            print(step.row(name, config.hours))


def _group(one: tpu.Result) -> tuple[str, str, bool, str]:
    return one.config, one.dtype, one.remat, one.topology


def on_gpus(config: Config) -> list[Step]:
    """Return the steps on GPUs. On eight, all-reduces are those found in programs for TPUs: see the document."""
    batch, share = config.data.batch, max(1, config.data.batch // 8)
    state, part = abstract_state(config), replace(config, data=replace(config.data, batch=share))
    norms = sum(leaf.size // leaf.shape[-1] for leaf in jax.tree.leaves(state.batch_stats)) / 2  # mean and variance
    gradients = 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params))  # bytes, in float32
    link = 2 * 7 / 8 * gradients / H100_LINK + REDUCES * norms * H100_REDUCE
    return [Step("1 H100", batch, h100(config), doubt=2), Step("8 H100", 8 * share, h100(part) + link, doubt=2)]


def on_tpus(config: Config, known: list[tpu.Result]) -> list[Step]:
    """Return the steps on TPUs: of the program of that slice and batch if it fits, or of the one nearest to it."""
    found = []
    for topology, chips in SLICES.items():
        share = max(1, config.data.batch // chips)
        fitting = [one for one in known if one.fits]
        exact = [one for one in fitting if (one.topology, one.examples) == (topology, share)]
        if not fitting:
            continue
        times = {one: one.estimated_seconds * share / one.examples + linked(one, topology) for one in exact or fitting}
        one = min(times, key=lambda one: (abs(one.examples - share), times[one]))
        note = "with remat" if one.remat else ""
        if not exact:
            note = f"in proportion to {one.examples} on {one.topology} {note}".rstrip()
        found.append(Step(f"v5e-{chips}", chips * share, times[one], note=note))
    return found


def linked(one: tpu.Result, topology: str) -> float:
    """Return the seconds that a step's all-reduces take between the chips of a slice."""
    count, size = reduced(one)
    return 2 * size / ICI_LINK + count * HOPS[topology] * ICI_HOP


def reduced(one: tpu.Result) -> tuple[int, int]:
    """Return how many all-reduces a step has, and the bytes of all of them."""
    return sum(times for _, _, times, _ in one.collectives), sum(size for _, _, _, size in one.collectives)


def h100(config: Config) -> float:
    """Return the seconds of a step on one GPU, without communication."""
    found = convolutions(config)
    bound = sum(max(one.flops / H100_FLOPS, one.bytes / H100_BYTES) * times for one, times in found)
    others = (PASSES - 1) * sum(one.bytes * times for one, times in found) / H100_BYTES
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract_state(config)))
    return bound + others + UPDATES * state / H100_BYTES


@functools.cache
def convolutions(config: Config) -> list[tuple[Work, int]]:
    """Return the convolutions and products of a step in bfloat16, and how often each is run."""
    config = replace(config, compute=replace(config.compute, dtype="bfloat16"))
    step = sharding.compile_step(config, sharding.make_mesh(config, jax.devices()[:1]))
    return operations(step.trace(abstract_state(config), tpu.abstract_batch(config)).jaxpr.jaxpr)


def abstract_state(config: Config) -> TrainState:
    return jax.eval_shape(lambda: initial_state(config))


if __name__ == "__main__":
    main()
