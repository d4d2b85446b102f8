"""The command line of ``train.py``: a config file, and overrides of its fields. Help starts no JAX."""

from __future__ import annotations

import ast
import importlib.util
import io
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxmss.errors import InputError, memory_is_full, suggest
from jaxmss.output import close_output
from jaxmss.training.config import Config

CONFIGS = Path("configs")  # beside the script
STOPPED = 143  # the status of a program that SIGTERM ends: whoever waits for the run starts it again

_USAGE = """usage: train.py CONFIG [--run DIR] [--FIELD VALUE ...]

Train a separator. A run that was cut short goes on where it stopped when it is started again.

{configs}

train.py CONFIG --help lists the fields. A config is any Python file with get_config() -> Config.
"""


@dataclass(frozen=True)
class Arguments:
    """Train a separator. A run that was cut short goes on where it stopped when it is started again.

    Attributes:
      config: the config, with overrides.
      run: folder of the run (default: runs/ and the config's name).
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    run: Annotated[Path, tyro.conf.arg(metavar="DIR")]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Exit with 0, 2 for a mistake in the input, 130 when interrupted, 143 after SIGTERM."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a run's name may hold what the terminal cannot show
    status = 0
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_USAGE.format(configs=_listing(_published())), end="")
            sys.exit(0 if arguments else 2)
        parsed = parse(Path(arguments[0]), arguments[1:])

        from jaxmss.training.loop import train

        status = 0 if train(parsed.config, parsed.run) else STOPPED
    except InputError as error:
        print(f"train.py: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("train.py: interrupted; start it again to go on from the last checkpoint", file=sys.stderr)
        status = 130
    except Exception as error:
        status = _told(error)
    if "jax" in sys.modules:  # otherwise there can be no other processes, and no threads
        from jaxmss.training.distributed import end, leave

        if status not in (0, STOPPED):
            leave(status)  # others may be waiting for this one, and JAX would have it wait for them
        end(status)
    sys.exit(status)


def _told(error: Exception) -> int:
    """Tell of what went wrong while training but was not foreseen; return the exit status."""
    from jaxmss.training.distributed import step_failed

    if memory_is_full(error):
        print(
            "train.py: the memory does not hold a step of this batch; set --compute.accumulate to 2 or more, "
            "--compute.remat, or a lower --data.batch",
            file=sys.stderr,
        )
        return 2
    if (reason := step_failed(error)) is not None:
        print(
            f"train.py: another process was lost, or the devices failed: {reason}; start all again to go on from "
            "the last checkpoint",
            file=sys.stderr,
        )
    else:  # a defect
        traceback.print_exception(error)
    return 1


def parse(file: Path, overrides: list[str]) -> Arguments:
    """Return the config of a file with overrides such as ``--optim.lr 5e-4``.

    Raises `InputError` for a file that is not there or gives no `Config`; exits with 2 for an unknown field, which
    tyro answers with a suggestion.
    """
    default = Arguments(config_of(file), Path("runs") / file.stem)
    # the kind of network is the config file's choice; only its fields can be changed
    kind = tyro.conf.AvoidSubcommands[Arguments]
    try:
        return tyro.cli(kind, default=default, args=overrides, prog=f"train.py {file}")
    except BrokenPipeError:  # whoever read the help, such as `head`, has read enough
        close_output()
        sys.exit(1)


def config_of(file: Path) -> Config:
    """Return what `get_config()` of a Python file returns. The file is run: it is the user's own program."""
    if not file.is_file():
        near = sorted({*file.parent.glob("*.py"), *_published().glob("*.py")})
        known = [str(path) for path in near if _is_config(path)]
        raise InputError(f"There is no config {str(file)!r}{suggest(str(file), known) if known else ''}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise InputError(f"{str(file)!r} is no Python file; name a config such as {_published() / 'cws_vocals.py'}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    get_config = getattr(module, "get_config", None)
    config = get_config() if callable(get_config) else None
    if not isinstance(config, Config):
        raise InputError(f"{str(file)!r} has no function get_config() that returns a Config")
    return config


def _published() -> Path:
    """Return the folder of the published recipes."""
    return Path(sys.argv[0]).parent / CONFIGS


def _is_config(file: Path) -> bool:
    """Tell whether a Python file looks like a config, without running it."""
    try:
        return "def get_config(" in file.read_text(errors="replace")
    except OSError:
        return False


def _listing(directory: Path) -> str:
    """Return a line for each config of a directory, without running any."""
    lines = []
    for file in sorted(directory.glob("*.py")):
        told = ast.get_docstring(ast.parse(file.read_text())) or ""
        lines.append(f"  {file!s:<34} {told.splitlines()[0] if told else ''}")
    return "\n".join(["Configs:", *lines])
