"""Which tracks of MUSDB18 are held out of training. Nothing here imports JAX."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import yaml

from jaxmss.errors import InputError

SPLITS = ("train", "valid", "test")


@cache
def validation_names() -> frozenset[str]:
    """Return the names of the 14 training tracks of MUSDB18 that validate, as the package `musdb` lists them.

    `musdb` itself is not imported, for it refuses to be without an ffmpeg. Raises `InputError` where its list is not
    there.
    """
    spec = importlib.util.find_spec("musdb")
    folders = spec.submodule_search_locations or [] if spec else []
    files = [file for folder in folders if (file := Path(folder, "configs", "mus.yaml")).is_file()]
    if not files:
        raise InputError("The package musdb, which lists the validation tracks, is not there; run `pip install musdb`")
    return frozenset(yaml.safe_load(files[0].read_text(encoding="utf-8"))["validation_tracks"])


def refuse_test(*splits: str) -> None:
    """Raise `InputError` if one of these folders is the test split, which training must never see."""
    for split in splits:
        if "test" in (part.lower() for part in Path(split).parts):
            raise InputError(f"The split {split!r} is for the final scores alone; train and validate on others")
