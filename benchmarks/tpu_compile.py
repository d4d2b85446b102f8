"""Compile the sharded train step of every config for TPUs, without one: memory, arithmetic, collectives, what fits.

    pip install -e ".[tpu]"
    python benchmarks/tpu_compile.py [--config cws_small] [--topology v5e:4x4] [--output tpu.json]

The compiler is the TPU's own, and needs no TPU. It takes minutes for each program: with `--output` every result is kept
as it comes, and what is there is not compiled again. A config keeps its number of examples a device, or one where the
devices are more than its examples. The columns:

- memory of a device that state and batch, temporaries and the program itself take, of 15.75 GiB; and how many examples
  would fit, by extrapolation: temporaries grow with the examples. `--verify` compiles with so many.
- TFLOP of a device and step: convolutions and matrix products, those of rematerialisation too. In float32 each takes
  six passes through a matrix unit, which multiplies bfloat16.
- estimate: the compiler's own count of cycles, loops multiplied out, without the collectives.
- all-reduces of a step: of gradients, and of the statistics of batch norms. Any other collective is a mistake in the
  sharding, and shown as one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # there is no metadata server to ask
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # nobody takes a TPU

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.extend import core

from jaxmss.data.mixing import Batch, slots
from jaxmss.training import sharding
from jaxmss.training.command import config_of
from jaxmss.training.config import Config
from jaxmss.training.state import initial_state

CONFIGS = Path(__file__).parents[1] / "configs"
TOPOLOGIES = ("v5e:4x4", "v5e:16x16")
MEMORY = 15.75 * 2**30  # bytes of a v5e's 16 GiB that its compiler gives to programs
CLOCK = 197e12 / (4 * 128 * 128 * 2)  # cycles a second: peak over the products of its four matrix units
COLLECTIVES = (
    "all-gather|all-to-all|all-reduce|collective-broadcast|collective-permute|ragged-all-to-all|reduce-scatter"
)


class Work(NamedTuple):
    flops: float
    passes: float  # FLOPs, those in float32 counted six times
    bytes: float  # of operands and results


@dataclass(frozen=True)
class Result:
    """What is known of one program; bytes, FLOPs and seconds are those of a device."""

    config: str
    topology: str
    dtype: str
    remat: bool
    examples: int  # on a device
    compile_seconds: float
    fits: bool = False
    arguments: int = 0
    temporaries: int = 0
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
    def most_examples(self) -> int:
        """By extrapolation: temporaries grow with the examples, the rest does not."""
        return int((MEMORY - self.memory + self.temporaries) / (self.temporaries / self.examples))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [path.stem for path in sorted(CONFIGS.glob("*.py"))]
    parser.add_argument("--config", choices=names, action="append", help="one of configs/ (default: all)")
    parser.add_argument("--topology", action="append", help=f"of the slice (default: {', '.join(TOPOLOGIES)})")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--remat", choices=("no", "yes", "both"), default="both")
    parser.add_argument("--examples", type=int, help="on a device (default: the config's share)")
    parser.add_argument("--verify", action="store_true", help="compile with as many examples as should fit, too")
    parser.add_argument("--output", type=Path, help="JSON file of results, to which new ones are added")
    args = parser.parse_args()
    known = [_from_json(values) for values in json.loads(args.output.read_text())] if _exists(args.output) else []

    def result(*wanted: Any) -> Result:
        for one in known:
            if (one.config, one.topology, one.dtype, one.remat, one.examples) == wanted:
                return one
        known.append(compiled(*wanted))
        if args.output:
            args.output.write_text(json.dumps([asdict(one) for one in known], indent=1) + "\n")
        return known[-1]

    print(HEADER, flush=True)
    for topology in args.topology or TOPOLOGIES:
        for name in args.config or names:
            for remat in {"no": (False,), "yes": (True,), "both": (False, True)}[args.remat]:
                config = config_of(CONFIGS / f"{name}.py")
                share = args.examples or max(1, config.data.batch // len(devices(topology)))
                first = result(name, topology, args.dtype, remat, share)
                print(row(first), flush=True)
                if args.verify and first.fits and first.most_examples > share:
                    print(row(result(name, topology, args.dtype, remat, first.most_examples)), flush=True)


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
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Result(name, topology, dtype, remat, examples, time.perf_counter() - start)
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
        fits=True,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        program=memory.generated_code_size_in_bytes,
        flops=amount.flops / len(chips),
        passes=amount.passes / len(chips),
        bytes=amount.bytes / len(chips),
        estimated_seconds=cycles(entry, computations) / CLOCK,
        collectives=collectives(entry, computations),
    )


def abstract_batch(config: Config) -> Batch:
    data, model = config.data, config.model
    count, samples = sum(map(slots, data.parts)), round(data.seconds * model.sample_rate)
    pcm = jax.ShapeDtypeStruct((data.batch, count, samples, model.channels), jnp.int16)
    gain, swap = (jax.ShapeDtypeStruct((data.batch, count), dtype) for dtype in (jnp.float32, jnp.bool_))
    return Batch(pcm, gain, swap)


def work(jaxpr: core.Jaxpr) -> Work:
    """Return what the convolutions and matrix products of a step amount to, over all devices.

    XLA's own count sees the body of a loop once. Of the ways for different platforms the most costly one is counted.
    """
    total = Work(0.0, 0.0, 0.0)
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        parts = [work(inner) for inner in _inner(params.values())]
        if name in ("conv_general_dilated", "dot_general"):
            left, right, result = (variable.aval for variable in (*equation.invars, *equation.outvars))
            if name == "dot_general":
                reach = math.prod(left.shape[axis] for axis in params["dimension_numbers"][0][0])
            else:
                reach = right.size / right.shape[params["dimension_numbers"].rhs_spec[0]]
            flops = 2.0 * result.size * reach
            moved = sum(array.size * array.dtype.itemsize for array in (left, right, result))
            parts = [Work(flops, flops * (6 if right.dtype == jnp.float32 else 1), moved)]
        elif name == "cond":
            parts = [max(parts)]
        times = params["length"] if name == "scan" else 1
        total = Work(*(one + times * sum(more) for one, *more in zip(total, *parts, strict=True)))
    return total


def _inner(values: Any) -> Iterator[core.Jaxpr]:
    for value in values:
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _inner(value)


def parse(text: str) -> tuple[str, dict[str, list[str]]]:
    """Return the name of the entry of a compiled program, and the instructions of every computation."""
    entry, computations, current = "", {}, []
    for line in text.splitlines():
        opening = re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{\s*$", line)
        if opening:
            current = computations.setdefault(opening[2], [])
            entry = opening[2] if opening[1] else entry
        elif " = " in line:
            current.append(line)
    return entry, computations


def executed(name: str, computations: dict[str, list[str]], times: int = 1) -> Iterator[tuple[str, int]]:
    """Yield each instruction that a computation executes, and how often."""
    for line in computations[name]:
        yield line, times
        loop = re.search(r" while\(.* condition=%?([\w.-]+), body=%?([\w.-]+)", line)
        if loop:  # a scan: its condition compares the round with their number
            [rounds] = re.findall(r" s32\[\]\S* constant\((\d+)\)", "\n".join(computations[loop[1]]))
            yield from executed(loop[2], computations, times * int(rounds))


def cycles(entry: str, computations: dict[str, list[str]]) -> int:
    found = ((re.search(r'"estimated_cycles":"(\d+)"', line), times) for line, times in executed(entry, computations))
    return sum(int(match[1]) * times for match, times in found if match)


def collectives(entry: str, computations: dict[str, list[str]]) -> tuple[tuple[str, str, int, int], ...]:
    """Return the kinds of collectives and what they are of, how often a step runs them, and the bytes they are of."""
    totals: dict[tuple[str, str], list[int]] = {}
    for line, times in executed(entry, computations):
        match = re.search(rf" = (.*?) ({COLLECTIVES})(-start)?\(", line)
        if match:
            shapes = [_dimensions(dims) for dims in re.findall(r"\w+\[([\d,]*)\]", match[1])]
            name = re.search(r'op_name="([^"]*)"', line)
            statistics = (
                name is not None and re.search(r"/bn\w*/", name[1]) and all(len(shape) <= 1 for shape in shapes)
            )
            of = "statistics" if statistics else "gradients and loss" if match[2] == "all-reduce" else "?"
            total = totals.setdefault((match[2], of), [0, 0])
            total[0] += times
            total[1] += times * sum(
                _bytes(kind) * math.prod(_dimensions(dims)) for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", match[1])
            )
    return tuple((*key, *total) for key, total in totals.items())


def _dimensions(text: str) -> list[int]:
    return [int(length) for length in text.split(",") if length]


def _bytes(kind: str) -> int:
    return {"pred": 1, "bf16": 2, "f16": 2}.get(kind, 4)


HEADER = """\
| config | slice | dtype | remat | examples a device | state and batch | temporaries | program | of 15.75 GiB | fit \
| TFLOP | estimate | all-reduces | other collectives |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


def row(one: Result) -> str:
    cells = [one.config, one.topology, one.dtype, "yes" if one.remat else "no", str(one.examples)]
    if not one.fits:
        return f"| {' | '.join([*cells, 'does not fit'])} |" + " |" * 8
    gib = (f"{size / 2**30:.2f} GiB" for size in (one.arguments + one.outputs, one.temporaries, one.program))
    reduces = [f"{n} of {of} ({size / 1e6:.1f} MB)" for kind, of, n, size in one.collectives if kind == "all-reduce"]
    others = [f"{n} {kind} ({size / 1e6:.1f} MB)" for kind, _, n, size in one.collectives if kind != "all-reduce"]
    cells += [*gib, f"{one.memory / MEMORY:.0%}", f"~{one.most_examples}", f"{one.flops / 1e12:.2f}"]
    cells += [f"{one.estimated_seconds * 1e3:.0f} ms", ", ".join(reduces), ", ".join(others) or "none"]
    return f"| {' | '.join(cells)} |"


def _exists(path: Path | None) -> bool:
    return path is not None and path.exists()


def _from_json(values: dict[str, Any]) -> Result:
    return Result(**values | {"collectives": tuple(map(tuple, values["collectives"]))})


if __name__ == "__main__":
    main()
