"""Saves and restores a state that lies on several devices, of several processes: a script, run by its test.

python tests/checkpoint_processes.py RUN FSDP save 1 2
python tests/checkpoint_processes.py RUN FSDP restore 2
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import numpy as np
import tiny_run

from jaxmss.errors import InputError
from jaxmss.training import distributed, sharding
from jaxmss.training.checkpoints import RunCheckpoints
from jaxmss.training.config import Compute, Config, Data
from jaxmss.training.run_directory import claimed
from jaxmss.training.state import TrainState


def config(fsdp: int) -> Config:
    """Parameters that are large enough to be cut over devices."""
    model = tiny_run.replace(tiny_run.config().model, widths=(256,))
    return tiny_run.config(model=model, data=Data(batch=8, seconds=0.5), compute=Compute(fsdp=fsdp))


def placed(settings: Config, step: int) -> tuple[TrainState, TrainState]:
    """The state after a step as NumPy arrays, and on the devices."""
    whole = jax.tree.map(np.asarray, tiny_run.state(settings, step))
    shardings = sharding.state_shardings(whole, sharding.make_mesh(settings))
    return whole, jax.tree.map(
        lambda leaf, where: jax.make_array_from_callback(leaf.shape, where, lambda index: leaf[index]), whole, shardings
    )


def equal(whole: np.ndarray, array: jax.Array) -> bool:
    """Whether the parts on this process's devices are those of `whole`."""
    return all(np.array_equal(shard.data, whole[shard.index]) for shard in array.addressable_shards)


def main() -> None:
    run, fsdp, task, *steps = sys.argv[1:]
    distributed.initialize()
    settings = config(int(fsdp))
    with claimed(Path(run), settings), RunCheckpoints(Path(run), settings.checkpoints, "") as checkpoints:
        if task == "save":
            for step in map(int, steps):
                checkpoints.save(step, placed(settings, step)[1])
                checkpoints.score(step, float(step), "3 tracks")
        else:
            whole, like = placed(settings, int(steps[0]))
            restored = checkpoints.restore_latest(like, lambda line: print("told:", line))
            assert jax.tree.all(jax.tree.map(equal, whole, restored))
            assert jax.tree.all(jax.tree.map(lambda a, b: a.sharding == b.sharding, like, restored))
    cut = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(placed(settings, 0)[1]))
    print(f"done: {jax.process_count()} processes, {jax.device_count()} devices, {cut} arrays cut")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"refused: {error}")
