"""What a training step amounts to: the arithmetic of a traced one, the cycles and collectives of a compiled one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core

COLLECTIVES = (
    "all-gather|all-to-all|all-reduce|collective-broadcast|collective-permute|ragged-all-to-all|reduce-scatter"
)


class Work(NamedTuple):
    flops: float
    passes: float  # FLOPs, those in float32 counted six times
    bytes: float  # of operands and results


def work(jaxpr: core.Jaxpr) -> Work:
    """Return what the convolutions and matrix products of a step amount to, over all devices."""
    found = [(one, times) for one, times in operations(jaxpr)]
    return Work(*(sum(one[field] * times for one, times in found) for field in range(len(Work._fields))))


def operations(jaxpr: core.Jaxpr, times: int = 1) -> list[tuple[Work, int]]:
    """Return each convolution and matrix product, and how often it is run, on all devices together.

    XLA's own count sees the body of a loop once. Of the ways for different platforms the most costly one is counted.
    """
    found = []
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        repeated = params["length"] if name == "scan" else params["mesh"].size if name == "shard_map" else 1
        inside = times * repeated
        parts = [operations(inner, inside) for inner in _inner(params.values())]
        if name == "cond":
            parts = [max(parts, key=lambda part: sum(one.flops * count for one, count in part))]
        elif name in ("conv_general_dilated", "dot_general"):
            left, right, result = (variable.aval for variable in (*equation.invars, *equation.outvars))
            if name == "dot_general":
                reach = math.prod(left.shape[axis] for axis in params["dimension_numbers"][0][0])
            else:
                reach = right.size / right.shape[params["dimension_numbers"].rhs_spec[0]]
            flops = 2.0 * result.size * reach
            moved = sum(array.size * array.dtype.itemsize for array in (left, right, result))
            found.append((Work(flops, flops * (6 if right.dtype == jnp.float32 else 1), moved), times))
        found += [one for part in parts for one in part]
    return found


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
