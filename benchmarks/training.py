"""Compare our training step with the PyTorch twin's on this machine: forward, backward and update, in turns.

    python benchmarks/training.py [--archs cws-small mobilenet-subband] [--batch 4] [--rounds 5]

Every contender is a process of its own that waits for its turn. Also prints what it costs to divide the same batch over
2, 4 and 8 simulated devices, which share the same cores: overhead is what a step on n of them takes longer than the
computation itself, which is n steps of one device, one after another, each with an n-th of the examples. Each of them
transforms and updates all parameters. What that costs here, where no device has cores of its own, the last column adds:
it compares with one device that has all the examples.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

RATE = 44100
DEVICES = (2, 4, 8)


def jax_step(arch: str, batch: int, seconds: float) -> Callable[[], float]:
    import jax

    from jaxmss import models
    from jaxmss.data.mixing import Batch
    from jaxmss.training import sharding
    from jaxmss.training.config import Config, Data, Part

    parts = (Part("vocals", ("vocals",)), Part("accompaniment", ("other",)))
    config = Config(models.architecture(arch), Data(parts=parts, seconds=seconds, batch=batch))
    mesh = sharding.make_mesh(config)
    slots = (batch, len(parts))
    pcm = np.random.default_rng(0).normal(scale=3000, size=(*slots, round(seconds * RATE), 2)).astype(np.int16)
    examples = sharding.place_batch(Batch(pcm, np.ones(slots, np.float32), np.zeros(slots, bool)), mesh)
    state = sharding.init(config, mesh)
    step = sharding.compile_step(config, mesh)

    def run() -> float:
        nonlocal state
        state, metrics = step(state, examples)
        jax.block_until_ready(state)
        return float(metrics["loss"])

    return run


def torch_step(arch: str, batch: int, seconds: float, layout: str) -> Callable[[], float]:
    import torch
    from torch_twins import make_twin

    memory_format = torch.channels_last if layout == "channels-last" else torch.contiguous_format
    twin = make_twin(arch).train().to(memory_format=memory_format)
    optimizer = torch.optim.Adam(twin.parameters(), amsgrad=True)
    parts = np.random.default_rng(0).normal(scale=0.1, size=(2, batch, 2, round(seconds * RATE))).astype(np.float32)
    target, rest = torch.from_numpy(parts)

    def run() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.l1_loss(twin(target + rest), target)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run


def wait_for_turns(step: Callable[[], float]) -> None:
    """Run two steps for each line that comes in, and answer with the seconds that the second took.

    The first after a wait is slower, as caches and memory went to the others, which no run of training knows.
    """
    for _ in sys.stdin:
        step()
        start = time.perf_counter()
        loss = step()
        print(time.perf_counter() - start, loss, file=sys.stdout, flush=True)


def compete(contenders: dict[str, list[str]], devices: dict[str, int], rounds: int) -> dict[str, list[float]]:
    """Start a process for each contender, and time each in turn, after a turn to compile and warm up."""
    processes = {}
    for name, arguments in contenders.items():
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices.get(name, 1)}"
        command = [sys.executable, __file__, *arguments]
        pipe = subprocess.PIPE
        processes[name] = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, "XLA_FLAGS": flags}
        )
    times: dict[str, list[float]] = {name: [] for name in contenders}
    try:
        for number in range(rounds + 1):
            for name, process in processes.items():
                print(file=process.stdin, flush=True)
                taken = float(process.stdout.readline().split()[0])
                if number >= 1:
                    times[name].append(taken)
    finally:
        for process in processes.values():
            process.communicate()
    return times


def gflop(arch: str, batch: int, seconds: float) -> float:
    """GFLOP of a step, counted with direct convolutions: as many again for each of the two gradients."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from torch_twins import make_twin

    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        make_twin(arch).maps(torch.zeros(batch, 8, round(seconds * RATE) // 4 // 110 + 1, 257))
    return 3 * counter.get_total_flops() / 1e9


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def against_pytorch(arch: str, batch: int, seconds: float, rounds: int) -> None:
    common = ["--batch", str(batch), "--seconds", str(seconds), "--archs", arch, "--contender"]
    contenders = {
        "jaxmss": [*common, "jax"],
        "PyTorch, default": [*common, "default"],
        "PyTorch, channels-last": [*common, "channels-last"],
    }
    times = compete(contenders, {}, rounds)
    work, ours = gflop(arch, batch, seconds), statistics.median(times["jaxmss"])
    row(f"{arch}, {batch} x {seconds:g} s", "ms a step, median", "best", "GFLOP/s", "jaxmss is faster by")
    row(*["---"] * 5)
    for name, taken in times.items():
        median = statistics.median(taken)
        row(name, f"{median * 1e3:.0f}", f"{min(taken) * 1e3:.0f}", f"{work / median:.0f}", f"{median / ours:.2f}x")
    print()


def scaling(arch: str, batch: int, seconds: float, rounds: int) -> None:
    common = ["--seconds", str(seconds), "--archs", arch, "--contender", "jax", "--batch"]
    columns = ("ms a step, median", "shares one by one", "overhead", "to one device")
    row(f"{arch}, {batch} x {seconds:g} s: devices", *columns)
    row(*["---"] * 5)
    for count in DEVICES:  # three processes at a time: the state of eight devices takes gigabytes
        sizes = {"divided": batch, "share": batch // count, "one": batch}
        contenders = {name: [*common, str(size)] for name, size in sizes.items()}
        times = compete(contenders, {"divided": count}, rounds)
        divided, share, one = (statistics.median(times[name]) for name in sizes)
        computation = count * share
        overhead, to_one = divided / computation - 1, divided / one - 1
        row(count, f"{divided * 1e3:.0f}", f"{computation * 1e3:.0f}", f"{overhead:+.1%}", f"{to_one:+.1%}")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", nargs="*", default=["cws-small", "mobilenet-subband"])
    parser.add_argument("--batch", type=int, default=4, help="examples of a step against PyTorch")
    parser.add_argument("--seconds", type=float, default=3.0, help="of an example")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scaling", choices=("also", "only", "no"), default="also")
    parser.add_argument("--contender", choices=("jax", "default", "channels-last"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        (arch,), kind = options.archs, options.contender
        size = (options.batch, options.seconds)
        wait_for_turns(jax_step(arch, *size) if kind == "jax" else torch_step(arch, *size, kind))
        return
    for arch in options.archs:
        if options.scaling != "only":
            against_pytorch(arch, options.batch, options.seconds, options.rounds)
        if options.scaling != "no":
            scaling(arch, max(DEVICES), options.seconds, options.rounds)


if __name__ == "__main__":
    main()
