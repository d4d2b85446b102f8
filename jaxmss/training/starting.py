"""Start a run from the weights of a published model, of a checkpoint or of another run."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path, tree_map_with_path

from jaxmss.errors import InputError
from jaxmss.loading import read, resolve
from jaxmss.training.agreement import everywhere
from jaxmss.training.config import Config
from jaxmss.training.state import TrainState, variables_of
from jaxmss.typing import Array, PyTree

MOST = 8  # names in a line


def start_from(config: Config, state: TrainState, tell: Callable[[str], None]) -> TrainState:
    """Return the initial `state` with the parameters and statistics of `config.init`; the optimizer starts afresh.

    Without `config.init_partly` the checkpoint must be of the same stems, with the same parameters. With it, parameters
    that it lacks or has in other shapes stay as initialised, and `tell` is given lines with what differs.

    Args:
      config: of the run.
      state: as initialised, on the devices where it is to stay.
      tell: takes a line of text.

    Raises:
      InputError: if the checkpoint does not fit, or has nothing in common with the network.
    """
    if config.init is None:
        return state
    with everywhere(InputError(f"init {config.init!r} cannot be read by another process; it says why")):
        network, variables = read(resolve(config.init))
    initial = variables_of(state.params, state.batch_stats)
    given, wanted = _named(variables), _named(initial)
    differing = _differing(given, wanted)
    if all(name in differing for name in wanted):
        raise InputError(f"init {config.init!r} has nothing in common with the network; choose another checkpoint")
    others = network.sources != config.model.sources
    stems = f"stems ({', '.join(network.sources)}, not {', '.join(config.model.sources)})"
    if (others or differing) and not config.init_partly:
        told = _listed([*[stems] * others, *(f"{name} ({why})" for name, why in differing.items())])
        raise InputError(
            f"init {config.init!r} is of another network: {told}; with init_partly what has the same name and shape is "
            "taken all the same, and the rest stays as initialised"
        )
    if others:
        tell(f"init {config.init}: of other {stems}; what has the same name and shape is taken for these")
    if kept := [f"{name} ({differing[name]})" for name in wanted if name in differing]:
        tell(f"init {config.init}: as initialised stay {_listed(kept)}")
    if left := [name for name in given if name not in wanted]:
        tell(f"init {config.init}: not of this network are {_listed(left)}")

    def taken(path: tuple, leaf: Array) -> Array:
        name = _name(path)
        return leaf if name in differing else jax.device_put(np.asarray(given[name]), leaf.sharding)

    weights = tree_map_with_path(taken, initial)
    ema = None if state.ema is None else jax.tree.map(jnp.copy, weights)  # a step that takes over both needs two
    return state._replace(**weights, ema=ema)


def _differing(given: dict[str, Array], wanted: dict[str, Array]) -> dict[str, str]:
    """Return what is wrong with each parameter that the two have not in common."""
    differing = {name: "missing" for name in wanted if name not in given}
    differing |= {name: "not of this network" for name in given if name not in wanted}
    for name in given.keys() & wanted.keys():
        if given[name].shape != wanted[name].shape:
            differing[name] = f"{given[name].shape}, not {wanted[name].shape}"
    return dict(sorted(differing.items()))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more


def _named(tree: PyTree) -> dict[str, Array]:
    return {_name(path): leaf for path, leaf in tree_leaves_with_path(tree)}


def _name(path: tuple) -> str:
    return keystr(path, simple=True, separator="/")
