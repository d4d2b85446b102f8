"""The command line of ``eval.py``. Nothing here imports JAX until help and mistakes are dealt with."""

from __future__ import annotations

import io
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxmss.errors import InputError
from jaxmss.options import AS_PUBLISHED, OptionFlags
from jaxmss.output import close_output
from jaxmss.workers import cores

DEMO = "demo"
SCORES = Path("scores")  # where they go unless told otherwise


@dataclass(frozen=True)
class Data:
    """The test tracks.

    Attributes:
      root: folder of MUSDB18 or MUSDB18-HQ, or of songs laid out alike, with a folder for each split; what `jaxmss data
        build` or `jaxmss data synth` made; or `demo`, a song of 6 s that is at hand.
      split: name of the split.
    """

    root: Annotated[str, tyro.conf.arg(aliases=["--data"])]
    split: str = "test"


def evaluate(
    data: Data,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIRECTORY")] = None,
    ckpt: Annotated[str | None, tyro.conf.arg(metavar="NAME|DIRECTORY|RUN[@STEP]|SYSTEM.json[,...]")] = None,
    estimates: Annotated[Path | None, tyro.conf.arg(metavar="DIRECTORY")] = None,
    tracks: Annotated[str | None, tyro.conf.arg(metavar="TRACK,...")] = None,
    limit: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    engine: Literal["jaxmss", "museval"] = "jaxmss",
    fit_length: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    workers: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    options: OptionFlags = AS_PUBLISHED,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> int:
    """Separate a test set and score the stems as museval does, beside the published figures.

    A run that was cut short goes on where it stopped when it is started again with the same output.

    Args:
        data: the test tracks.
        output: folder for tracks/*.json, results.json, results.csv and report.html; one in it for each of several
            checkpoints (default: one in scores/ for each).
        ckpt: published name (see `jaxmss models`), checkpoint directory, JSON file of a system of networks, or training
            run: RUN is its best checkpoint, RUN@last and RUN@12000 are others; with @raw at the end without the moving
            average. Several with commas.
        estimates: instead of a checkpoint, stems that any program made: DIRECTORY/<track>/<stem>.wav.
        tracks: comma-separated names of the tracks to score (default: all).
        limit: score the first so many of them.
        engine: museval itself, or jaxmss, which gives the same numbers in a fraction of the time.
        fit_length: cut or pad estimates to the length of the track, as museval does, instead of refusing them.
        workers: processes that score (default: one for every two cores, at most 8); each takes up to 2 GB.
        options: how each track is separated.
        dtype: inside the network.
    """
    if (ckpt is None) == (estimates is None):
        raise InputError("Give either --ckpt NAME|DIRECTORY or --estimates DIRECTORY")
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; it must be at least 1")
    checkpoints = [part.strip() for part in (ckpt or "").split(",")]
    if ckpt is not None and not all(checkpoints):
        raise InputError(f"--ckpt {ckpt!r} holds an empty name; give names with single commas between them")
    names = [part.strip() for part in tracks.split(",")] if tracks is not None else None

    from jaxmss.evaluation.processes import join

    join()  # comes before anything that starts JAX

    from jaxmss.data.tracks import demo_tracks, find_tracks, select
    from jaxmss.evaluation.evaluate import evaluate_all
    from jaxmss.evaluation.scoring import Job
    from jaxmss.evaluation.separation import model_system
    from jaxmss.evaluation.systems import folder_system, stems_of

    found = demo_tracks() if data.root == DEMO else find_tracks(data.root, data.split)
    chosen = select(found, names, limit)
    if estimates is not None:
        systems = [folder_system(estimates, chosen)]
    else:
        known = stems_of(chosen)
        systems = [model_system(name, options, dtype, known) for name in checkpoints]
    where = {"root": data.root, "split": None if data.root == DEMO else data.split}
    exact = data.root if data.root == DEMO or "://" in data.root else str(Path(data.root).resolve())
    if output is None:
        output = SCORES / systems[0].name if len(systems) == 1 else SCORES
    job = Job(output, engine, fit_length, f"{exact}, {data.split}")
    return evaluate_all(systems, chosen, job, workers or _default_workers(), where)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit with 0, with 1 if a track failed, with 2 for a mistake in the input."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a track's name may hold what the terminal cannot show
    try:
        status = tyro.cli(evaluate, args=arguments, prog="eval.py")
    except InputError as error:
        print(f"eval.py: {error}", file=sys.stderr)
        status = 2
    except BrokenPipeError:  # whoever read the output, such as `head`, has read enough
        close_output()
        status = 1
    except KeyboardInterrupt:
        print("eval.py: interrupted; start it again with the same output to go on", file=sys.stderr)
        status = 130
    except Exception:  # a defect, told as Python would; but the other processes need not wait for this one
        traceback.print_exc()
        status = 1
    if "jax" in sys.modules:  # otherwise there can be no other processes
        from jaxmss.evaluation.processes import leave

        leave(status)
    sys.exit(status)


def _default_workers() -> int:
    return max(1, min(cores() // 2, 8))
