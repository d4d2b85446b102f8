"""The command line: ``jaxmss separate | convert | models | compare | evaluate-filters | demo | data``.

Nothing here imports JAX until a command needs it, so that help is instant.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxmss.errors import InputError
from jaxmss.options import AS_PUBLISHED, OptionFlags
from jaxmss.output import close_output

app = tyro.extras.SubcommandApp()


@app.command
def separate(
    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT...")],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: Annotated[str, tyro.conf.arg(metavar="NAME|DIRECTORY|RUN[@STEP]|SYSTEM.json")] = "cws-vocals",
    stems: Annotated[str | None, tyro.conf.arg(metavar="STEM,...")] = None,
    two_stems: Annotated[str | None, tyro.conf.arg(metavar="STEM")] = None,
    format: Annotated[str, tyro.conf.arg(metavar="{wav16,wav24,wav32f,flac,mp3}")] = "wav16",
    clipping: Annotated[str, tyro.conf.arg(metavar="{rescale,clamp,none}")] = "rescale",
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    options: OptionFlags = AS_PUBLISHED,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> int:
    """Separate audio files, or all audio files in folders, into stems: OUTPUT/<track>/<stem>.wav.

    Args:
        inputs: files (wav, flac, mp3, ogg, m4a, mp4, ...) and folders.
        output: folder for the stems.
        model: published name (see `jaxmss models`), checkpoint directory, training run, or JSON file of a system of
            networks, as eval.py takes them.
        stems: comma-separated stems to write (default: all of the model's).
        two_stems: write this stem and `no_<stem>`, the rest; the two sum to the mixture, or to what `clipping`
            rescales it to.
        format: of the stems: 16 or 24 bit or float WAV, FLAC, MP3.
        clipping: beyond full scale: rescale all stems of the track together, clamp, or none (wav32f).
        overwrite: replace existing stems instead of keeping them.
        options: how each track is separated.
        dtype: inside the network.
    """
    if not inputs:
        raise InputError("No input was given; name audio files or folders")
    if stems is not None and two_stems is not None:
        raise InputError("--stems and --two-stems exclude each other; choose one")
    from jaxmss import console, files, loading

    destination = files.Output(output, format, clipping, overwrite)
    separator = loading.load(model, dtype)
    if two_stems is not None:
        sources, residual = separator.chosen([two_stems]), f"no_{two_stems}"
    else:
        named = [stem.strip() for stem in stems.split(",")] if stems is not None else None
        sources, residual = separator.chosen(named), None
    separator.plan(sources, options)  # refuses what does not fit, before any work
    reports = files.separate_files(
        separator, inputs, sources, destination, residual=residual, options=options, progress=console.Bar
    )
    return console.tell(reports, output)


@app.command
def convert(
    architecture: Annotated[str, tyro.conf.Positional],
    file: Annotated[Path, tyro.conf.Positional],
    directory: Annotated[Path, tyro.conf.Positional],
    sources: str | None = None,
) -> int:
    """Convert a published PyTorch checkpoint; PyTorch is not needed, and no code in the file is run.

    Args:
        architecture: name of the architecture (see `jaxmss models`).
        file: the PyTorch checkpoint; of the Demucs family a .th file, which tells the network's shape itself.
        directory: new directory to write the checkpoint to.
        sources: comma-separated names of its stems, where they differ from the architecture's.
    """
    from jaxmss.checkpoints.convert import convert

    convert(architecture, file, directory, tuple(sources.split(",")) if sources else None)
    print(f"Wrote {directory}")
    return 0


@app.command
def models() -> int:
    """List the architectures and the published weights."""
    from jaxmss import console

    console.list_models()
    return 0


@app.command
def compare(
    first: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="A")],
    second: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="B")],
) -> int:
    """Compare two evaluations: how much better B is than A on the tracks of both, and what is significant.

    Args:
        first: output folder of eval.py, or the results.json in it.
        second: another.
    """
    from jaxmss.evaluation.compare import compare

    print(compare(first, second))
    return 0


@app.command
def evaluate_filters(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR|demo")], split: str = "test"
) -> int:
    """Score the filter banks of 2, 4 and 8 subbands alone: the SDR of audio that is split and merged again.

    Args:
        source: data set, whose vocals are taken, a folder of any audio files, or `demo`, a song of 6 s that is at hand.
        split: of the data set.
    """
    from jaxmss.evaluation.filters import evaluate_filters

    return evaluate_filters(source, split, print)


@app.command
def demo(output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("jaxmss-demo")) -> int:
    """Separate a real recording with real weights; print scores and write a page to listen to.

    Args:
        output: folder for the stems and index.html.
    """
    from jaxmss.demo import run

    run(output)
    return 0


data = tyro.extras.SubcommandApp()
app.command(data, name="data", help="Check, prepare and make data sets to train and evaluate on.")


@data.command(name="check")
def check_data(
    root: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIRECTORY")],
    split: Annotated[str | None, tyro.conf.arg(metavar="NAME,...")] = None,
    folders: Annotated[str | None, tyro.conf.arg(metavar="STEM,...")] = None,
) -> int:
    """Listen through a data set and print a line for each problem; the exit status is 1 if one is an error.

    Args:
        root: folder with a folder of tracks for each split, or a data set that `jaxmss data build` prepared.
        split: comma-separated folders to check (default: train, valid and test, those that there are).
        folders: comma-separated stems whose recordings lie in folders of their own, as train.py's --data.folders.
    """
    from jaxmss.data import command

    return command.check(root, _names(split), _names(folders))


@data.command(name="build")
def build_data(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIRECTORY")],
    destination: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIRECTORY|gs://...")],
    beam: Annotated[str | None, tyro.conf.arg(metavar="OPTION=VALUE,...")] = None,
) -> int:
    """Prepare a data set: a few large ArrayRecord files of TensorFlow Datasets, for fast reading over a network.

    Args:
        source: folder of MUSDB18-HQ, MUSDB18 or alike, with folders train, valid and test.
        destination: folder or address to write to.
        beam: do the work by Apache Beam, with these options, such as runner=DirectRunner (for large catalogues).
    """
    from jaxmss.data import command

    return command.build(source, destination, beam)


@data.command(name="synth")
def synthesize_data(
    directory: Annotated[Path, tyro.conf.Positional],
    songs: int = 24,
    seconds: float = 20.0,
    seed: int = 0,
) -> int:
    """Make songs that are free of rights, a data set to try training with: folders train, valid and test.

    Args:
        directory: new directory for them.
        songs: to train on; a sixth as many are made to validate with, a quarter as many to test with.
        seconds: length of each.
        seed: of all that is drawn; the same seed makes the same songs.
    """
    from jaxmss.data import command

    return command.synth(directory, songs, seconds, seed)


def _names(listed: str | None) -> list[str]:
    """Return the names of a list with commas."""
    return [name.strip() for name in listed.split(",") if name.strip()] if listed is not None else []


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit with 0, 1 if some inputs failed, 2 for a mistake in them, 130 if interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what the terminal cannot show
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever stops a job should find nothing half-written
    try:
        status = app.cli(args=arguments, prog="jaxmss", description="Music source separation in JAX.")
        sys.stdout.flush()
        sys.exit(status)
    except InputError as error:
        print(f"jaxmss: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # whoever read the output, such as `head`, has read enough
        close_output()
        sys.exit(1)
    except OSError as error:  # a path that may not be looked at or is too long, a full disk under the output
        what = f"{str(error.filename)!r}: {error.strerror}" if error.filename else error
        print(f"jaxmss: {what}; check the path, its permissions and its disk", file=sys.stderr)
        if not error.filename:  # it was the output
            close_output()
        sys.exit(2)
    except KeyboardInterrupt:
        print(
            "jaxmss: interrupted; what was finished is complete, the rest was not written", file=sys.stderr, flush=True
        )
        os._exit(130)  # a second Ctrl-C may have left a thread in the network, which Python cannot end without a crash


if __name__ == "__main__":
    main()
