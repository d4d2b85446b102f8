"""Compile the sharded train step of every config for TPUs, without one: memory, arithmetic, collectives, what fits.

    pip install -e ".[tpu]"
    python benchmarks/tpu_compile.py [--config cws_small] [--topology v5e:4x4] [--search] [--output tpu.json]

The compiler is the TPU's own, and needs no TPU. It takes minutes for each program: with `--output` every result is kept
as it comes, and what is there is not compiled again (`benchmarks/tpu.json`: what `docs/scaling.md` is written from). A
config keeps its number of examples a device, or one where the devices are more than its examples. The columns:

- memory of a device that state and batch, temporaries and the program itself take, of 15.75 GiB.
- TFLOP of a device and step: convolutions and matrix products, those of rematerialisation too. In float32 each takes
  six passes through a matrix unit, which multiplies bfloat16.
- estimate: the compiler's own count of cycles, loops multiplied out, without the collectives.
- all-reduces of a step: of gradients, and of the statistics of batch norms. Any other collective is a mistake in the
  sharding, and shown as one.

The second table tells how many examples fit into a device: the most that were compiled and fit, and how many more may.
`--search` compiles until that is known. It is no matter of proportion: with more, the compiler keeps other things.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # there is no metadata server to ask
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # nobody takes a TPU

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from tpu_program import collectives, cycles, parse, work

from jaxmss.data.mixing import Batch, slots
from jaxmss.training import sharding
from jaxmss.training.command import config_of
from jaxmss.training.config import Config
from jaxmss.training.state import initial_state

CONFIGS = Path(__file__).parents[1] / "configs"
TOPOLOGIES = ("v5e:4x4", "v5e:16x16")
MEMORY = 15.75 * 2**30  # bytes of a v5e's 16 GiB that its compiler gives to programs
CLOCK = 197e12 / (4 * 128 * 128 * 2)  # cycles a second: peak over the products of its four matrix units


@dataclass(frozen=True)
class Result:
    """What is known of one program; bytes, FLOPs and seconds are those of a device."""

    config: str
    topology: str
    dtype: str
    remat: bool
    examples: int  # on a device
    compile_seconds: float
    temporaries: int
    compiles: bool = False  # the compiler refuses programs whose temporaries alone exceed the memory
    arguments: int = 0
    outputs: int = 0  # that are not written over arguments
    program: int = 0
    flops: float = 0
    passes: float = 0  # as in Work
    bytes: float = 0  # as in Work
    estimated_seconds: float = 0
    collectives: tuple[tuple[str, str, int, int], ...] = ()  # kind, of what, times in a step, bytes in a step

    @property
    def memory(self) -> int:
        return self.arguments + self.temporaries + self.outputs + self.program

    @property
    def held(self) -> int:
        return self.arguments + self.temporaries

    @property
    def fits(self) -> bool:
        return self.compiles and self.memory <= MEMORY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [path.stem for path in sorted(CONFIGS.glob("*.py"))]
    parser.add_argument("--config", choices=names, action="append", help="one of configs/ (default: all)")
    parser.add_argument("--topology", action="append", help=f"of the slice (default: {', '.join(TOPOLOGIES)})")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--remat", choices=("no", "yes", "both"), default="both")
    parser.add_argument("--examples", type=int, help="on a device (default: the config's share)")
    parser.add_argument("--search", action="store_true", help="go on until it is known how many examples fit")
    parser.add_argument("--output", type=Path, help="JSON file of results, to which new ones are added")
    args = parser.parse_args()
    known = [from_json(values) for values in json.loads(args.output.read_text())] if _exists(args.output) else []

    def result(*wanted: Any) -> Result:
        for one in known:
            if (one.config, one.topology, one.dtype, one.remat, one.examples) == wanted:
                return one
        known.append(compiled(*wanted))
        if args.output:
            args.output.write_text(json.dumps([asdict(one) for one in known], indent=1) + "\n")
        return known[-1]

    print(HEADER, flush=True)
    wanted = []
    for topology in args.topology or TOPOLOGIES:
        for name in args.config or names:
            for remat in {"no": (False,), "yes": (True,), "both": (False, True)}[args.remat]:
                config = config_of(CONFIGS / f"{name}.py")
                share = args.examples or max(1, config.data.batch // len(devices(topology)))
                print(row(result(name, topology, args.dtype, remat, share)), flush=True)
                wanted.append((name, topology, remat))
    groups = [
        (topology, [one for one in known if (one.config, one.dtype, one.remat) == (name, args.dtype, remat)])
        for name, topology, remat in wanted
    ]
    for topology, group in groups if args.search else ():
        while examples := untried(group):
            group.append(result(group[0].config, topology, args.dtype, group[0].remat, examples))
            print(row(group[-1]), flush=True)
    print(f"\n{CAPACITY_HEADER}")
    for group in {capacity_row(group): None for _, group in groups}:
        print(group)


def devices(topology: str) -> list[Any]:
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices


def compiled(name: str, topology: str, dtype: str, remat: bool, examples: int) -> Result:
    """Compile one train step, as `train.py` would for these devices."""
    chips = devices(topology)
    config = config_of(CONFIGS / f"{name}.py")
    config = replace(
        config,
        data=replace(config.data, batch=examples * len(chips)),
        compute=replace(config.compute, dtype=dtype, remat=remat),
    )
    start = time.perf_counter()
    traced = sharding.compile_step(config, sharding.make_mesh(config, chips)).trace(
        jax.eval_shape(lambda: initial_state(config)), abstract_batch(config)
    )
    try:
        program = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        # what it says depends on how late it notices
        refused = re.search(r"RESOURCE_EXHAUSTED(?s:.*?)(?:temporaries \(|HLO temp +)([\d.]+)G", str(error))
        if not refused:
            raise
        seconds = round(time.perf_counter() - start, 1)
        temporaries, arguments = round(float(refused[1]) * 2**30), _held(config, len(chips))
        return Result(name, topology, dtype, remat, examples, seconds, temporaries, arguments=arguments)
    memory, text = program.memory_analysis(), program.as_text()
    amount = work(traced.jaxpr.jaxpr)
    entry, computations = parse(text)
    return Result(
        name,
        topology,
        dtype,
        remat,
        examples,
        compile_seconds=round(time.perf_counter() - start, 1),
        temporaries=memory.temp_size_in_bytes,
        compiles=True,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        program=memory.generated_code_size_in_bytes,
        flops=amount.flops / len(chips),
        passes=amount.passes / len(chips),
        bytes=amount.bytes / len(chips),
        estimated_seconds=cycles(entry, computations) / CLOCK,
        collectives=collectives(entry, computations),
    )


def largest(known: list[Result]) -> tuple[int, int | None]:
    """Return the most examples that fit, and the fewest above them that do not; 0 and None where none was compiled.

    `known` are of one config, type and choice of remat, whatever the slice: a device holds the same in all of them.
    """
    fit = max((one.examples for one in known if one.fits), default=0)
    return fit, min((one.examples for one in known if one.examples > fit), default=None)


def untried(known: list[Result]) -> int | None:
    """Return the number of examples that narrows `largest` down; None where it is known.

    It is where a line through the results with the fewest and the most examples reaches the memory, or the middle
    where they do not lie on a line.
    """
    fit, above = largest(known)
    if above == fit + 1:
        return None
    if above is not None and len(known) > 2:
        return (fit + above) // 2
    few, most = min(known, key=_examples), max(known, key=_examples)
    if few.examples == most.examples:
        return 2 * fit
    slope = (most.held - few.held) / (most.examples - few.examples)
    guess = few.examples + int((MEMORY - max(one.outputs + one.program for one in known) - few.held) / slope)
    return max(fit + 1, guess if above is None else min(guess, above - 1))


def _examples(one: Result) -> int:
    return one.examples


def _held(config: Config, parts: int) -> int:
    """Return the bytes of a device's arguments: the state, and its part of the batch."""
    state, batch = jax.eval_shape(lambda: initial_state(config)), abstract_batch(config)
    return sum(
        leaf.size * leaf.dtype.itemsize // share
        for tree, share in ((state, 1), (batch, parts))
        for leaf in jax.tree.leaves(tree)
    )


def abstract_batch(config: Config) -> Batch:
    data, model = config.data, config.model
    count, samples = sum(map(slots, data.parts)), round(data.seconds * model.sample_rate)
    pcm = jax.ShapeDtypeStruct((data.batch, count, samples, model.channels), jnp.int16)
    gain, swap = (jax.ShapeDtypeStruct((data.batch, count), dtype) for dtype in (jnp.float32, jnp.bool_))
    return Batch(pcm, gain, swap)


HEADER = """\
| config | slice | dtype | remat | examples a device | state and batch | temporaries | program | of 15.75 GiB \
| TFLOP | estimate | all-reduces | other collectives |
|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


def row(one: Result) -> str:
    cells = [one.config, one.topology, one.dtype, "yes" if one.remat else "no", str(one.examples)]
    if not one.compiles:
        return f"| {' | '.join([*cells, '', f'{one.temporaries / 2**30:.2f} GiB', '', 'refused'])} |" + " |" * 4
    gib = (f"{size / 2**30:.2f} GiB" for size in (one.arguments + one.outputs, one.temporaries, one.program))
    reduces = [f"{n} of {of} ({size / 1e6:.1f} MB)" for kind, of, n, size in one.collectives if kind == "all-reduce"]
    others = [f"{n} {kind} ({size / 1e6:.1f} MB)" for kind, _, n, size in one.collectives if kind != "all-reduce"]
    cells += [*gib, f"{one.memory / MEMORY:.0%}", f"{one.flops / 1e12:.2f}"]
    cells += [f"{one.estimated_seconds * 1e3:.0f} ms", ", ".join(reduces), ", ".join(others) or "none"]
    return f"| {' | '.join(cells)} |"


CAPACITY_HEADER = """\
| config | dtype | remat | examples: GiB of state, batch and temporaries | fit |
|---|---|---|---|---|"""


def capacity_row(known: list[Result]) -> str:
    one, (fit, above) = known[0], largest(known)
    held = {one.examples: one.held for one in sorted(known, key=_examples)}
    sizes = ", ".join(f"{examples}: {size / 2**30:.2f}" for examples, size in held.items())
    told = f"{fit} or more" if above is None else f"{fit}" if above == fit + 1 else f"{fit} to {above - 1}"
    return f"| {one.config} | {one.dtype} | {'yes' if one.remat else 'no'} | {sizes} | {told} |"


def _exists(path: Path | None) -> bool:
    return path is not None and path.exists()


def from_json(values: dict[str, Any]) -> Result:
    return Result(**values | {"collectives": tuple(map(tuple, values["collectives"]))})


if __name__ == "__main__":
    main()
