"""Read the files that `torch.save` writes, without PyTorch and without running anything that is in them.

The format is a zip archive that holds one pickle (`data.pkl`) and, uncompressed, the bytes of each storage (`data/0`,
`data/1`, ...). A tensor in the pickle is a storage, an offset, a shape and strides. The file is memory-mapped and the
tensors are read-only views of it, so what is not used costs no memory, and no file can ask for more than it holds.

Source: https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

from __future__ import annotations

import mmap
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from jaxmss.checkpoints.pickle_arrays import ARRAY_CONSTRUCTORS, Storage, storage_dtype
from jaxmss.checkpoints.pickle_data import Global, Opaque, read_pickle
from jaxmss.errors import CheckpointError

# The largest pickle known to be in use keeps its weights inside: 59 MB.
MAX_PICKLE_BYTES = 1 << 28

_RESAVE = "load it in PyTorch and write it again with `torch.save(weights, path)`"
_FETCH_AGAIN = "fetch it again"
_ZIP_MAGIC = b"PK\x03\x04"
_OTHER_FORMATS = (
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "in PyTorch's format from before version 1.6", _RESAVE),
    (b"\x80", "a bare pickle", _RESAVE),
    (b"\x89HDF", "an HDF5 file", _RESAVE),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch it with `git lfs pull`"),
    (b"<", "a web page, not the file itself", _FETCH_AGAIN),
)


def read_torch_file(path: str | Path) -> Any:
    """Return the contents of a file that `torch.save` wrote, with NumPy arrays in place of tensors.

    Dicts, lists, tuples, sets, numbers and strings come as they are; an object of any other class (callbacks, optimizer
    classes, hyper-parameters) comes as an inert `Opaque` that knows only its name. The arrays are read-only views of
    the memory-mapped file; bfloat16 and float8 come as the types of `ml_dtypes`.

    Raises:
      CheckpointError: for a file that is missing, damaged, hostile or of another format.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _read(file)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); give the path of a checkpoint") from error
    # Whatever a damaged or hostile file provokes in the parsers is an error in the file.
    except Exception as error:
        what = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{path}: is damaged ({type(error).__name__}: {what}); {_FETCH_AGAIN}") from error


def find_state_dict(contents: Any, path: str | Path) -> dict[str, np.ndarray]:
    """Return the network's tensors by their names in the file, unchanged.

    Args:
      contents: what `read_torch_file` returned: a Lightning checkpoint (its `state_dict`), a bytesep one (its `model`),
        or a bare dict of tensors.
      path: the file, for the error messages.

    Raises:
      CheckpointError: if no dict of tensors is there.
    """
    weights = contents
    for key in ("state_dict", "model"):
        if isinstance(contents, dict) and key in contents:
            weights = contents[key]
            break
    if isinstance(weights, Opaque):
        raise CheckpointError(f"{path}: holds an object of {_kind(weights)}; save its `state_dict()` instead")
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{path}: holds no named tensors; save the network's `state_dict()`")
    others = [
        f"{name!r:.80} ({_kind(value)})" if isinstance(name, str) else f"a name that is a {_kind(name)}"
        for name, value in weights.items()
        if not (isinstance(name, str) and isinstance(value, np.ndarray))
    ]
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        listed = ", ".join(others[:5]) + more
        raise CheckpointError(f"{path}: holds what is not a named tensor: {listed}; save only the `state_dict()`")
    return weights


def _kind(value: Any) -> str:
    return repr(value.name[:80]) if isinstance(value, Opaque) else type(value).__name__


def _read(file: Any) -> Any:
    """Return the contents of an open file."""
    head = file.read(64)
    if not head.startswith(_ZIP_MAGIC):
        raise CheckpointError(_describe_other_format(head))
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # the arrays keep it open
    archive = _Archive(zipfile.ZipFile(file), memoryview(mapped))
    data = archive.member("data.pkl")
    if len(data) > MAX_PICKLE_BYTES:
        raise CheckpointError(f"has a pickle of {len(data):,} bytes, over {MAX_PICKLE_BYTES:,}; {_RESAVE}")
    return read_pickle(bytes(data), ARRAY_CONSTRUCTORS, archive.storage)


def _describe_other_format(head: bytes) -> str:
    if not head:
        return f"is empty; {_FETCH_AGAIN}"
    for magic, what, remedy in _OTHER_FORMATS:
        if head.lstrip().startswith(magic):
            return f"is {what}; {remedy}"
    if head[8:10] == b'{"':
        return f"is a safetensors file; {_RESAVE}"
    return f"is not a file of `torch.save` (it begins with {head[:8]!r}); give the path of a PyTorch checkpoint"


class _Archive:
    """The zip archive of a checkpoint. Nothing in it is ever extracted, so no member's name can reach another file."""

    def __init__(self, archive: zipfile.ZipFile, mapped: memoryview):
        self.mapped = mapped
        self.members = {info.filename: info for info in archive.infolist()}
        self.storages: dict[str, Storage] = {}
        pickles = [name for name in self.members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError(f"is a zip archive, but not one of `torch.save`; {_RESAVE}")
        self.root = pickles[0].removesuffix("data.pkl")
        if f"{self.root}constants.pkl" in self.members:
            raise CheckpointError("is a TorchScript program; save the network's `state_dict()` with `torch.save`")
        if "byteorder" in self and bytes(self.member("byteorder")) != b"little":
            raise CheckpointError("was written on a big-endian machine; load and save it on a little-endian one")
        # Members that overlap would cost time for each, although not memory.
        if sum(info.file_size for info in self.members.values()) > len(mapped):
            raise CheckpointError(f"declares more bytes than it has (a zip bomb, or compressed); {_RESAVE}")

    def __contains__(self, name: str) -> bool:
        return self.root + name in self.members

    def member(self, name: str) -> memoryview:
        """Return the bytes of a member, checked by its checksum, without a copy."""
        info = self.members.get(self.root + name)
        if info is None:
            raise CheckpointError(f"lacks its member {name[:80]!r}; {_FETCH_AGAIN}")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise CheckpointError(f"has a compressed member ({name[:80]!r}), which PyTorch never writes; {_RESAVE}")
        header = self.mapped[info.header_offset : info.header_offset + 30]
        magic, name_bytes, extra_bytes = struct.unpack("<4s22xHH", header)
        start = info.header_offset + 30 + name_bytes + extra_bytes
        data = self.mapped[start : start + info.file_size]
        if magic != _ZIP_MAGIC or len(data) != info.file_size or zlib.crc32(data) != info.CRC:
            raise CheckpointError(f"is damaged: its member {name[:80]!r} does not match its checksum; {_FETCH_AGAIN}")
        return data

    def storage(self, persistent_id: Any) -> Storage | Opaque:
        """Return the storage that a persistent id of PyTorch stands for: ("storage", class, key, device, elements)."""
        kind, storage_type, key, _, elements = persistent_id[:5]
        if kind != "storage" or not isinstance(storage_type, Global) or not isinstance(key, str):
            raise ValueError("a persistent id is not that of a storage")
        dtype = storage_dtype(storage_type)
        if dtype is None:
            return Opaque(storage_type.name)
        if key not in self.storages:
            self.storages[key] = Storage(self.member(f"data/{key}"), dtype)
        storage = self.storages[key]
        if storage.dtype != dtype or len(storage.data) != elements * dtype.itemsize:
            raise ValueError(f"storage {key[:80]!r} has {len(storage.data)} bytes, not {elements} elements of {dtype}")
        return storage
