"""Where the arrays of a step lie: one mesh over all devices of all processes, the batch cut over it, the state copied.

With ``compute.fsdp > 1`` groups of so many devices share one copy of the state: each large array is cut along an axis.
Each device finds gradients with examples of its own, and each of them is summed once, in float32, whatever the network
computes in and however many parts a batch has. All else of a step is written as for one device: `jax.jit` divides it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxmss.data.mixing import Batch
from jaxmss.errors import InputError
from jaxmss.training.config import Config
from jaxmss.training.state import TrainState, initial_state
from jaxmss.training.step import Gradients, train_step
from jaxmss.typing import Array, PyTree

DATA, FSDP = "data", "fsdp"
BATCH = PartitionSpec((DATA, FSDP))  # every device has examples of its own
SMALLEST_CUT = 2**14  # elements: smaller arrays cost more to gather than they save
# a TPU's compiler (libtpu 0.0.42, 0.0.52) sums no more than 256 arrays or 120 MiB at once otherwise
ONE_SUM = {"xla_jf_crs_combiner_threshold_count": str(2**20), "xla_jf_crs_combiner_threshold_in_bytes": str(2**40)}


def make_mesh(config: Config, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return a mesh of axes ``(data, fsdp)`` over `devices`, by default all of all processes.

    Raises `InputError` if `compute.fsdp` does not divide the devices, or they (times `compute.accumulate`) the batch.
    """
    devices = jax.devices() if devices is None else devices
    count, fsdp, accumulate, batch = len(devices), config.compute.fsdp, config.compute.accumulate, config.data.batch
    if count % fsdp:
        raise InputError(f"The number of devices ({count}) must be divisible by compute.fsdp ({fsdp}); change fsdp")
    if batch % (count * accumulate):
        parts = f" times compute.accumulate ({accumulate})" if accumulate > 1 else ""
        raise InputError(
            f"Batch size ({batch}) must be divisible by the number of devices ({count}){parts}; "
            f"set data.batch to a multiple of {count * accumulate}"
        )
    # a process's devices side by side: its share of a batch is one run of examples, and it shares state with itself
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(ordered).reshape(-1, fsdp), (DATA, FSDP), axis_types=(AxisType.Auto,) * 2)


def state_shardings(state: PyTree, mesh: Mesh) -> PyTree:
    """Return where each array of `state` (or its shape) lies: cut over `fsdp` if large, and copied otherwise."""

    def sharding(leaf: jax.Array | np.ndarray | jax.ShapeDtypeStruct) -> NamedSharding:
        parts = mesh.shape[FSDP]
        axes = [axis for axis, length in enumerate(leaf.shape) if length % parts == 0]
        if parts == 1 or leaf.size < SMALLEST_CUT or not axes:
            return NamedSharding(mesh, PartitionSpec())
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, FSDP))

    return jax.tree.map(sharding, state)


def init(config: Config, mesh: Mesh) -> TrainState:
    """Return the initial state, each device making its own part of it: the same on any mesh."""
    shardings = state_shardings(_shapes(config), mesh)
    return jax.jit(lambda: initial_state(config), out_shardings=shardings)()


@functools.lru_cache(16)  # tracing a network takes half a second
def _shapes(config: Config) -> TrainState:
    return jax.eval_shape(lambda: initial_state(config))


def compile_step(config: Config, mesh: Mesh) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Return `train_step` under `jax.jit` for a mesh. It takes the state over: the one passed in is gone afterwards."""
    state = state_shardings(_shapes(config), mesh)
    return jax.jit(
        train_step(config, partial(_over_devices, mesh)),
        in_shardings=(state, NamedSharding(mesh, BATCH)),
        out_shardings=(state, NamedSharding(mesh, PartitionSpec())),
        donate_argnums=0,
        compiler_options=ONE_SUM if mesh.devices.flat[0].platform == "tpu" else None,
    )


def _over_devices(mesh: Mesh, gradients: Gradients) -> Gradients:
    """Have each device call `gradients` with all parameters and its own examples, and average what they return.

    Here alone gradients cross between devices: once all parts of a batch are added up. Within a network batch norms
    alone hear from other devices: through their means each one differentiates the losses of all of them.
    """
    if mesh.size == 1:
        return gradients

    def own(params: PyTree, batch_stats: PyTree, step: Array, batch: Batch) -> tuple[Array, PyTree, PyTree]:
        value, ascent, batch_stats = gradients(params, batch_stats, step, batch)
        return *lax.pmean((value, ascent), (DATA, FSDP)), batch_stats

    everywhere = PartitionSpec()
    specs = (everywhere, everywhere, everywhere, BATCH)
    return jax.shard_map(own, mesh=mesh, in_specs=specs, out_specs=everywhere, check_vma=False)


def place_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Put this process's share of a batch (NumPy arrays) on its devices, as its part of the global arrays."""
    sharding = NamedSharding(mesh, BATCH)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
