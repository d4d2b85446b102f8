"""Compare our Demucs networks with the package demucs on this machine, in turns in one process.

    python benchmarks/demucs_networks.py [--networks htdemucs hdemucs demucs] [--seconds 10] [--rounds 5]

Full-size networks with random weights, the same for both, on the same mixture: `htdemucs` on the 7.8 s that it takes,
the others on `--seconds`.
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
import numpy as np
import torch
from demucs.demucs import Demucs
from demucs.hdemucs import HDemucs
from demucs.htdemucs import HTDemucs

from jaxmss import models
from jaxmss.checkpoints.demucs_names import from_demucs_state

PEERS = {
    "htdemucs": (HTDemucs, {"bottom_channels": 512, "dconv_mode": 3, "segment": 7.8}),
    "hdemucs": (HDemucs, {}),
    "demucs": (Demucs, {}),
}


def compare(name: str, seconds: float, rounds: int) -> None:
    config = models.architecture(name)
    kind, arguments = PEERS[name]
    theirs = kind(sources=list(config.sources), **arguments).eval()
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    variables = jax.device_put(from_demucs_state(state, models.variable_shapes(config), config, name))
    seconds = config.segment if name == "htdemucs" else seconds
    shape = (1, config.channels, int(seconds * config.sample_rate))
    mixture = np.random.default_rng(0).normal(scale=0.1, size=shape).astype(np.float32)

    start = time.perf_counter()
    ours = jax.jit(models.build(config).apply).lower(variables, mixture).compile()
    compiled = time.perf_counter() - start

    def by_torch() -> np.ndarray:
        with torch.inference_mode():
            return theirs(torch.from_numpy(mixture)).numpy()

    contenders = {"theirs": by_torch, "ours": lambda: np.asarray(ours(variables, mixture))}
    times: dict[str, list[float]] = {contender: [] for contender in contenders}
    outputs = {}
    for number in range(rounds + 1):
        for contender, run in contenders.items():
            start = time.perf_counter()
            outputs[contender] = run()
            if number:  # the first is a rehearsal
                times[contender].append(time.perf_counter() - start)
    error = np.linalg.norm(outputs["ours"] - outputs["theirs"]) / np.linalg.norm(outputs["theirs"])
    medians = {contender: statistics.median(taken) for contender, taken in times.items()}
    parameters = sum(array.size for array in state.values()) / 1e6
    cells = [f"{name} ({parameters:.0f} M parameters)", f"{seconds:g}", f"{medians['theirs']:.2f}"]
    cells += [
        f"{medians['ours']:.2f}",
        f"{medians['theirs'] / medians['ours']:.2f}x",
        f"{error:.1e}",
        f"{compiled:.1f}",
    ]
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, jax {jax.__version__}, torch {torch.__version__}\n")
    print("| network | seconds of audio | demucs 4.1.0, s | jaxmss, s | faster by | difference | compiled in, s |")
    print("|" + " --- |" * 7)
    for name in options.networks:
        compare(name, options.seconds, options.rounds)


if __name__ == "__main__":
    main()
