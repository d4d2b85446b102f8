"""The checkpoints of a training run, as they lie on disk: which there are, whether they are whole, and their weights.

::

    RUN/config.json                   the config of the run, and the versions it was made with
    RUN/checkpoints/12000/weights/    parameters and statistics after 12,000 steps
                         /ema/        their exponential moving average
                         /progress/   the rest that training goes on from: the optimizer's moments, counters
                         /manifest.json   the validation SDR and tracks, the songs, each file's length and CRC-32

`jaxmss.training.checkpoints` writes them, by Orbax: under another name, renamed when all is there.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

from jaxmss.checkpoints import store
from jaxmss.config import converted
from jaxmss.errors import CheckpointError, InputError
from jaxmss.training.config import Network, Part
from jaxmss.typing import Variables

CONFIG, CHECKPOINTS, MANIFEST = "config.json", "checkpoints", "manifest.json"
WEIGHTS, EMA, PROGRESS = "weights", "ema", "progress"
BEST, LAST = "best", "last"


class Score(NamedTuple):
    """What a validation found of a checkpoint.

    Attributes:
      sdr: in dB, the mean over sources of medians over tracks; -inf where there is none.
      over: which tracks. SDRs are compared where it is the same.
    """

    sdr: float
    over: str | None


UNSCORED = Score(-math.inf, None)


def is_run(directory: Path) -> bool:
    """Return whether the directory is that of a training run."""
    return (directory / CHECKPOINTS).is_dir()


def is_checkpoint(directory: Path) -> bool:
    """Return whether the directory is one of a run's checkpoints."""
    return directory.parent.name == CHECKPOINTS and directory.name.isdecimal() and (directory / PROGRESS).is_dir()


def steps(directory: Path) -> list[int]:
    """Return the steps after which a run has a checkpoint, the first one first."""
    names = [path.name for path in (directory / CHECKPOINTS).iterdir()]
    return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))


def score(directory: Path, step: int) -> Score:
    """Return what is noted of the validation of a checkpoint."""
    noted = _manifest(directory, step)
    sdr, over = noted.get("sdr"), noted.get("over")
    return Score(float(sdr), over if isinstance(over, str) else None) if isinstance(sdr, (int, float)) else UNSCORED


def scores(directory: Path) -> dict[int, Score]:
    """Return what is noted of the validation of each checkpoint of a run."""
    return {step: score(directory, step) for step in steps(directory)} if is_run(directory) else {}


def validated(directory: Path, step: int) -> bool:
    """Return whether a checkpoint has been validated, with whatever success."""
    return "sdr" in _manifest(directory, step)


def songs(directory: Path, step: int) -> str | None:
    """Return the fingerprint of the songs that a checkpoint was trained on; None if it notes none."""
    return _manifest(directory, step).get("songs")


def newest(scores: Mapping[int, Score]) -> Score:
    """Return the score of the newest checkpoint that has one."""
    return next((scores[step] for step in sorted(scores, reverse=True) if scores[step].sdr > -math.inf), UNSCORED)


def best(scores: Mapping[int, Score]) -> int:
    """Return the step with the greatest SDR over the tracks that the newest score is over, of equals the last."""
    over = newest(scores).over
    return max((step for step in scores if scores[step].over == over), key=lambda step: (scores[step].sdr, step))


def choose(directory: Path, which: str | None) -> int:
    """Return the step of the checkpoint that is meant: "best" by validation, "last", or after so many steps.

    None is the best, or the last where none was validated. Raises `InputError` if there is no such checkpoint.
    """
    found = steps(directory)
    if not found:
        raise CheckpointError(f"{directory} holds no checkpoint yet")
    listed = ", ".join(map(str, found))
    known = scores(directory)
    validated = newest(known) != UNSCORED
    if which == BEST and not validated:
        raise InputError(f"{directory} holds no validated checkpoint; choose {LAST} or one of {listed}")
    if which == BEST or (which is None and validated):
        return best(known)
    if which in (LAST, None):
        return found[-1]
    if not which.isdecimal() or int(which) not in found:
        raise InputError(f"{directory} holds no checkpoint {which!r}; choose {BEST}, {LAST} or one of {listed}")
    return int(which)


def read_config(directory: Path) -> Network:
    """Read the config of the network that a run trains; raise `CheckpointError` if it cannot be read."""
    return _read(directory, Network, "model")


def read_parts(directory: Path) -> tuple[Part, ...]:
    """Read what the mixtures of a run consist of; raise `CheckpointError` if it cannot be read."""
    return _read(directory, tuple[Part, ...], "data", "parts")


def _read(directory: Path, kind: Any, *fields: str) -> Any:
    """Read a field of the config of a run, or one of its own fields, as the kind that it is of."""
    file = directory / CONFIG
    try:
        config = json.loads(file.read_text())["config"]
        return converted(kind, fields[-1], reduce(getitem, fields, config))
    except InputError as error:
        raise CheckpointError(f"{file}: {error}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is not the config of a run ({error!r})") from None


def restore(directory: Path, step: int, raw: bool = False) -> tuple[Network, Variables]:
    """Read a network's config and its variables, averaged if the run averages and unless the `raw` ones are wanted.

    Raises `CheckpointError` for a checkpoint that is damaged.
    """
    config = read_config(directory)
    checkpoint = directory / CHECKPOINTS / str(step)
    item = EMA if not raw and (checkpoint / EMA).is_dir() else WEIGHTS
    try:
        check(checkpoint, item)
    except CheckpointError as error:
        others = ", ".join(f"{directory}@{other}" for other in steps(directory) if other != step)
        raise CheckpointError(f"{error}; the run's other checkpoints: {others or 'none'}") from None
    return config, store.read_variables(checkpoint / item, config)


def note_score(directory: Path, step: int, score: Score) -> None:
    """Write what a validation found of a checkpoint beside it, where `score` finds it."""
    file = directory / CHECKPOINTS / str(step) / MANIFEST
    noted = json.loads(file.read_text()) | {
        "sdr": score.sdr if math.isfinite(score.sdr) else None,
        "over": score.over,
    }
    aside = file.with_name(f"{MANIFEST}.part")
    aside.write_text(json.dumps(noted))
    os.replace(aside, file)


def manifest(checkpoint: Path) -> dict[str, Any]:
    """Return what to note of a checkpoint that is new: each file's length in bytes and CRC-32."""
    items = sorted(path for path in checkpoint.iterdir() if path.is_dir())
    sums = {item.name: {name: [f.stat().st_size, _crc(f)] for name, f in _files(item).items()} for item in items}
    return {"files": sums}


def check(checkpoint: Path, item: str) -> None:
    """Raise `CheckpointError` unless the files of an item are those that were written.

    Orbax itself finds most damage, but tells of it by tracebacks of its threads, and finds no changed byte of an array.
    """
    try:
        there = _files(checkpoint / item)
        for name, size, crc in _noted(checkpoint, item):
            if name not in there:
                raise CheckpointError(f"{checkpoint / item / name} is missing, so that the checkpoint is damaged")
            length = there[name].stat().st_size
            if length != size:
                raise CheckpointError(f"{checkpoint / item / name} is damaged: it holds {length} of {size} bytes")
            if _crc(there[name]) != crc:
                raise CheckpointError(f"{checkpoint / item / name} is damaged: its bytes are not those written")
    except OSError as error:
        raise CheckpointError(f"{checkpoint} cannot be read: {error}") from None


def _manifest(directory: Path, step: int) -> dict[str, Any]:
    """Return what is noted of a checkpoint; nothing where it is damaged: whoever reads the rest of it will be told."""
    try:
        noted = json.loads((directory / CHECKPOINTS / str(step) / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _noted(checkpoint: Path, item: str) -> list[tuple[str, int, int]]:
    try:
        noted = json.loads((checkpoint / MANIFEST).read_text())["files"][item]
        return [(name, int(size), int(crc)) for name, (size, crc) in noted.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{checkpoint} is damaged: {MANIFEST} cannot be used ({error!r})") from None


def _files(item: Path) -> dict[str, Path]:
    return {path.relative_to(item).as_posix(): path for path in sorted(item.rglob("*")) if path.is_file()}


def _crc(file: Path) -> int:
    crc = 0
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc
