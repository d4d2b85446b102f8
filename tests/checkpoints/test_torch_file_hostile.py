"""A checkpoint from the internet is hostile until parsed: nothing runs, memory stays bounded, errors are one line."""

import builtins
import io
import os
import pickle
import pickletools
import resource
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from jaxmss.checkpoints.pickle_data import Opaque
from jaxmss.checkpoints.torch_file import find_state_dict, read_torch_file
from jaxmss.errors import CheckpointError


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


class Storage:
    """Pickles as the persistent id of a storage."""

    def __init__(self, persistent_id):
        self.persistent_id = persistent_id


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.persistent_id if isinstance(obj, Storage) else None


def pickled(contents, protocol: int = 2) -> bytes:
    stream = io.BytesIO()
    Pickler(stream, protocol).dump(contents)
    return stream.getvalue()


def write_archive(path: Path, data_pkl: bytes, members=None, compression=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data_pkl)
        for name, data in (members or {}).items():
            archive.writestr(name, data)
    return path


def write_tensor(path: Path, *, elements=6, key="0", offset=0, size=(2, 3), stride=(3, 1), members=None) -> Path:
    """Write a float32 tensor over a storage of 24 bytes, with what the test wants to be wrong."""
    storage = Storage(("storage", torch.FloatStorage, key, "cpu", elements))
    tensor = Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, None)
    members = {"archive/data/0": bytes(24)} if members is None else members
    return write_archive(path, pickled({"x": tensor}), members)


def refusal(path: Path) -> str:
    """Return the message with which the file is refused, after checking its form."""
    with pytest.raises(CheckpointError) as error:
        read_torch_file(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400
    return message


@pytest.fixture
def sentinel(tmp_path):
    """A file that an attack would create; it must not be there at the end of the test."""
    path = tmp_path / "the attack ran"
    yield path
    assert not path.exists()


def attacks(sentinel: Path) -> dict[str, Call]:
    """Return calls that make the sentinel file, by the name that protocol 2 gives to what they call."""
    command = f"touch '{sentinel}'"
    code = f"open({str(sentinel)!r}, 'w')"
    return {
        f"{os.system.__module__}.system": Call(os.system, command),
        "commands.Popen": Call(subprocess.Popen, ["touch", str(sentinel)]),
        "commands.call": Call(subprocess.call, ["touch", str(sentinel)]),
        "__builtin__.eval": Call(builtins.eval, code),
        "__builtin__.exec": Call(builtins.exec, code),
        "io.open": Call(builtins.open, str(sentinel), "w"),
    }


@pytest.mark.parametrize("name", list(attacks(Path())))
@pytest.mark.parametrize("place", ["root", "nested", "callback", "argument"])
def test_an_attack_is_refused_by_name_and_does_not_run(tmp_path, sentinel, name, place):
    attack = attacks(sentinel)[name]
    contents = {
        "root": attack,
        "nested": {"state_dict": {"a": [1, (2, {"b": attack})]}},
        "callback": {"callbacks": {"x": attack}, "state_dict": {"a": torch.ones(1)}},
        "argument": Call(dict, [("a", attack)]),
    }[place]
    torch.save(contents, path := tmp_path / "attack.ckpt")
    message = refusal(path)
    assert repr(name) in message
    assert "nothing was run" in message


def test_the_attacks_are_real(tmp_path):
    sentinel = tmp_path / "the attack ran"
    for attack in attacks(sentinel).values():
        torch.save(attack, tmp_path / "attack.ckpt")
        torch.load(tmp_path / "attack.ckpt", weights_only=False)
        for _ in range(500):
            if sentinel.exists():
                break
            subprocess.run(["sleep", "0.01"], check=True)
        sentinel.unlink()


@pytest.mark.parametrize(
    "data_pkl",
    [
        b"cos\nsystem\n(S'touch sentinel'\ntR.",
        b"(S'touch sentinel'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch sentinel'\no.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0etouch sentinel\x85R.",
        b"\x80\x02cos\nsystem\nX\x0e\x00\x00\x00touch sentinel\x85\x81.",
        b"\x80\x04cos\nsystem\n)}\x92.",
        b"cos.path\nos.system\n.",
        b"cos\npath\x0d\n.",
    ],
    ids=["reduce", "inst", "obj", "stack-global", "newobj", "newobj-ex", "dotted", "unused"],
)
def test_every_way_to_name_a_function_is_watched(tmp_path, monkeypatch, data_pkl):
    monkeypatch.chdir(tmp_path)
    assert "this file is an attack" in refusal(write_archive(tmp_path / "x.pt", data_pkl))
    assert not (tmp_path / "sentinel").exists()


class Unlisted:
    """An arbitrary class whose every hook tells on itself."""

    ran: list[str] = []  # noqa: RUF012

    def __new__(cls, *_):
        cls.ran.append("new")
        return super().__new__(cls)

    def __setstate__(self, state):
        self.ran.append("setstate")

    def __reduce_ex__(self, _):
        return (Unlisted, (1,), {"a": 1}, iter([1, 2]), iter([("k", "v")]))


def test_objects_of_unknown_classes_are_inert(tmp_path):
    torch.save({"object": Unlisted(), "call": Call(print, "x"), "state_dict": {"a": torch.ones(2)}}, tmp_path / "x.pt")
    Unlisted.ran.clear()
    contents = read_torch_file(tmp_path / "x.pt")
    assert Unlisted.ran == []
    assert isinstance(contents["object"], Opaque)
    assert contents["object"].name.endswith("Unlisted")
    assert isinstance(contents["call"], Opaque)
    np.testing.assert_array_equal(find_state_dict(contents, "x.pt")["a"], np.ones(2))


def test_nothing_that_the_file_names_is_imported(tmp_path):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    path = write_archive(tmp_path / "x.pt", b"cevil_module\nEvil\n)R.")
    sys.path.insert(0, str(tmp_path))
    try:
        assert read_torch_file(path).name == "evil_module.Evil"
    finally:
        sys.path.remove(str(tmp_path))
    assert "evil_module" not in sys.modules


def test_reading_is_the_same_for_every_later_file(tmp_path):
    """A file cannot change how later files are read: BUILD on a constructor's name changes nothing."""
    path = write_archive(
        tmp_path / "x.pt", b"ctorch._utils\n_rebuild_tensor_v2\n}S'__defaults__'\nNsb0ccollections\nOrderedDict\n}b."
    )
    read_torch_file(path)
    np.testing.assert_array_equal(read_torch_file(write_tensor(tmp_path / "y.pt"))["x"], np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"offset": 1}, "outside its 6 elements"),
        ({"offset": -1}, "whole number"),
        ({"offset": 2**80}, "whole number"),
        ({"offset": 0.0}, "whole number"),
        ({"size": (-2, 3)}, "whole number"),
        ({"size": (2, True)}, "whole number"),
        ({"size": [2, 3]}, "whole number"),
        ({"size": (2, 3, 1)}, "3 sizes but 2 strides"),
        ({"size": (1 << 40, 1 << 40), "stride": (0, 0)}, "outside its 6 elements"),
        ({"size": (100, 100), "stride": (0, 0)}, "outside its 6 elements"),
        ({"size": (2, 3), "stride": (4, 1)}, "outside its 6 elements"),
        ({"size": (2, 3), "stride": (-3, -1), "offset": 5}, "whole number"),
        ({"size": (1,) * 65, "stride": (1,) * 65}, "damaged"),
        ({"size": (0, 1 << 61, 1 << 61), "stride": (1, 1, 1)}, "damaged"),
        ({"elements": 7}, "24 bytes, not 7 elements"),
        ({"elements": 5}, "24 bytes, not 5 elements"),
        ({"elements": "6"}, "damaged"),
        ({"key": "1"}, "lacks its member 'data/1'"),
        ({"key": "../../../etc/passwd"}, "lacks its member"),
        ({"key": "/etc/passwd"}, "lacks its member"),
        ({"members": {}}, "lacks its member 'data/0'"),
        ({"members": {"archive/data/0": b""}}, "0 bytes, not 6 elements"),
        ({"members": {"../archive/data/0": bytes(24)}}, "lacks its member"),
        ({"key": 0}, "not that of a storage"),
        ({"members": {"archive/data/0": bytes(24), "archive/byteorder": b"big"}}, "big-endian"),
        ({"members": {"archive/data/0": bytes(24), "archive/constants.pkl": b""}}, "TorchScript"),
        ({"members": {"archive/data/0": bytes(24), "second/data.pkl": b"N."}}, "not one of `torch.save`"),
    ],
)
def test_a_tensor_that_does_not_fit_its_storage_is_refused(tmp_path, wrong, says):
    assert says in refusal(write_tensor(tmp_path / "x.pt", **wrong))


def test_the_tensor_of_the_test_above_is_sound(tmp_path):
    assert read_torch_file(write_tensor(tmp_path / "x.pt"))["x"].shape == (2, 3)


def test_names_that_climb_out_of_the_archive_touch_nothing(tmp_path):
    (tmp_path / "inside").mkdir()
    members = {"archive/data/0": bytes(24), "archive/data/../../../evil": b"x", "/evil": b"x", "..\\evil": b"x"}
    path = write_tensor(tmp_path / "inside" / "x.pt", members=members)
    read_torch_file(path)
    assert {file.name for file in tmp_path.rglob("*")} == {"inside", "x.pt"}


@pytest.mark.parametrize(
    ("data_pkl", "says"),
    [
        (b"", "damaged"),
        (b"N", "damaged"),
        (b".", "damaged"),
        (b"NN.", "damaged"),
        (b"\xffN.", "damaged"),
        (b"(.", "damaged"),
        (b"0.", "damaged"),
        (b"h\x05.", "damaged"),
        (b"Q.", "damaged"),
        (b"NQ.", "damaged"),
        (b"N)R.", "neither a class nor a function"),
        (b"(dS'a'\n]]s.", "appends|damaged"),
        (b"(lN\x85\x85\x85K\x01s.", "damaged"),
        (b"}N\x85\x85K\x01s.", "nested tuple"),
        (b"}(K\x01u.", "damaged"),
        (b"\x82\x01.", "instruction EXT1"),
        (b"\x80\x05\x97.", "instruction NEXT_BUFFER"),
        (b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b"x.", "damaged"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.", "damaged"),
        (b"\x8b" + struct.pack("<i", 0x7FFFFFFF) + b"x.", "damaged"),
        (b"Nr\xff\xff\xff\x7f0.", "damaged"),
        (b"I" + b"9" * 5000 + b"\n.", "damaged"),
        (b"\x8c\x02\xff\xfe.", "damaged"),
        (b"(" * 10000 + b"t" * 9999 + b".", "damaged"),
        (b"c_codecs\nencode\nX\x03\x00\x00\x00abcX\x06\x00\x00\x00latin1\x86R" * 2 + b".", "damaged"),
    ],
)
def test_a_malformed_pickle_is_refused(tmp_path, data_pkl, says):
    message = refusal(write_archive(tmp_path / "x.pt", data_pkl))
    assert any(part in message for part in says.split("|"))


def test_a_deep_pickle_does_not_exhaust_the_stack(tmp_path):
    contents = read_torch_file(write_archive(tmp_path / "x.pt", b"]" * 100000 + b"a" * 99999 + b"."))
    depth = 0
    while contents:
        (contents,) = contents
        depth += 1
    assert depth == 99999


def test_tuples_doubled_a_hundred_times_are_not_hashed_or_printed(tmp_path):
    doubled = b"N\x85" + b"2\x86" * 100
    storage = b"ctorch._utils\n_rebuild_tensor_v2\n("
    for data_pkl in (
        b"}" + doubled + b"Ns.",
        b"\x8f(" + doubled + b"\x90.",
        b"(" + doubled + b"\x91.",
        b"c__builtin__\nset\n](" + doubled + b"e\x85R.",
        b"((S'storage'\nctorch\nFloatStorage\n" + doubled + b"S'cpu'\nK\x01tQ.",
        storage + b"((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nK\x06tQK\x00" + doubled + doubled + b"tR.",
    ):
        refusal(write_archive(tmp_path / "x.pt", data_pkl, {"archive/data/0": bytes(24)}))


def refusal_and_peak(path: Path) -> tuple[str, int]:
    """What is said of a file, and the most bytes that were held at a time to say it."""
    tracemalloc.start()
    message = refusal(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return message, peak


def test_strings_cannot_be_multiplied(tmp_path):
    """One long string made into bytes again and again would take memory without end."""
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20)
    again = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    path = write_archive(tmp_path / "x.pt", text + b"q\x000(" + again * 5000 + b"l.")
    message, peak = refusal_and_peak(path)
    assert "damaged" in message
    assert peak < 32 << 20


@pytest.mark.parametrize("name", ["torch\nSize", "collections\nOrderedDict", "builtins\nset", "__builtin__\nfrozenset"])
def test_lists_cannot_be_multiplied(tmp_path, name):
    """One long list copied again and again would, too."""
    pairs = b"]q\x00(" + b"".join(b"K" + bytes([i % 256]) + b"N\x86" for i in range(10_000)) + b"e0"
    again = b"h\x01h\x00\x85R"
    path = write_archive(tmp_path / "x.pt", pairs + b"c" + name.encode() + b"\nq\x010(" + again * 5000 + b"l.")
    message, peak = refusal_and_peak(path)
    assert "damaged" in message
    assert peak < 16 << 20  # all copies would take 400 MB or more


def test_names_cannot_be_multiplied(tmp_path):
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20)
    path = write_archive(tmp_path / "x.pt", text + b"q\x000(" + b"h\x00h\x00\x93" * 5000 + b"l.")
    message, peak = refusal_and_peak(path)
    assert "damaged" in message
    assert peak < 32 << 20


def test_a_pickle_of_too_many_instructions_is_refused(tmp_path):
    path = write_archive(tmp_path / "x.pt", b"(" + b"N0" * 550_000 + b"l.")
    assert "over 1,000,000 instructions" in refusal(path)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ((1, (2, 2), np.dtype("f4"), False, b"1234"), "4 bytes"),
        ((1, (-1,), np.dtype("f4"), False, b"1234"), "whole number"),
        ((1, (1 << 70,), np.dtype("f4"), False, b"1234"), "whole number"),
        ((1, (1,), "f4", False, b"1234"), "no type or no bytes"),
        ((1, (1,), np.dtype("f4"), False, [1]), "no type or no bytes"),
        ((1, (1,), np.dtype("f4"), False), "damaged"),
        ("state", "damaged"),
    ],
)
def test_a_numpy_array_that_does_not_fit_its_bytes_is_refused(tmp_path, state, says):
    class Array:
        def __reduce__(self):
            return (np.empty(0).__reduce__()[0], (np.ndarray, (0,), b"b"), state)

    assert says in refusal(write_archive(tmp_path / "x.pt", pickled(Array())))


def test_a_numpy_array_of_objects_is_never_made(tmp_path):
    array = np.array([Unlisted()], object)
    path = write_archive(tmp_path / "x.pt", pickled({"x": array}))
    Unlisted.ran.clear()
    assert isinstance(read_torch_file(path)["x"], Opaque)
    assert Unlisted.ran == []


def test_a_zip_bomb_is_refused_without_unpacking_it(tmp_path):
    path = tmp_path / "bomb.pt"
    members = {"archive/data/0": bytes(200 << 20)}
    write_archive(
        path,
        pickled({"x": Storage(("storage", torch.FloatStorage, "0", "cpu", 50 << 20))}),
        members,
        zipfile.ZIP_DEFLATED,
    )
    members.clear()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    assert "zip bomb" in refusal(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


def test_a_compressed_archive_is_refused(tmp_path):
    path = write_archive(tmp_path / "x.pt", b"N.", {"archive/pad": os.urandom(4096)}, zipfile.ZIP_DEFLATED)
    assert "compressed member" in refusal(path)


def test_members_that_overlap_are_refused(tmp_path):
    """Many entries over the same bytes: each would be read in full."""
    path = write_tensor(tmp_path / "x.pt", members={f"archive/data/{n}": bytes(100) for n in range(50)})
    raw = bytearray(path.read_bytes())
    position = raw.index(b"PK\x01\x02")
    while (position := raw.find(b"PK\x01\x02", position)) >= 0:
        raw[position + 20 : position + 28] = struct.pack("<II", len(raw) // 2, len(raw) // 2)
        position += 46
    path.write_bytes(raw)
    assert "declares more bytes than it has" in refusal(path)


def valid_file() -> bytes:
    stream = io.BytesIO()
    torch.save(
        {"state_dict": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.int64)}, "n": [1, "x"]},
        stream,
    )
    return stream.getvalue()


VALID = valid_file()


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "cut.pt"
    for length in range(0, len(VALID), 7):
        path.write_bytes(VALID[:length])
        refusal(path)


def test_damaged_weights_are_noticed_by_their_checksum(tmp_path):
    weights = np.arange(6, dtype=np.float32).tobytes()
    path = tmp_path / "x.pt"
    path.write_bytes(VALID.replace(weights, weights[:-1] + b"\x00"))
    assert "does not match its checksum" in refusal(path)


def reads_or_refuses(path: Path) -> None:
    try:
        weights = find_state_dict(read_torch_file(path), path)
    except CheckpointError:
        return
    for array in weights.values():
        array.copy()  # touches every element: a view out of bounds would crash


@settings(max_examples=400, deadline=None)
@given(
    flips=st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=6),
    length=st.one_of(st.just(len(VALID)), st.integers(0, len(VALID))),
)
def test_a_file_with_bytes_changed_is_read_or_refused(tmp_path_factory, flips, length):
    raw = bytearray(VALID)
    for position, value in flips:
        raw[position] = value
    path = tmp_path_factory.getbasetemp() / "fuzzed.pt"
    path.write_bytes(raw[:length])
    reads_or_refuses(path)


DATA_PKL = zipfile.ZipFile(io.BytesIO(VALID)).read("archive/data.pkl")
OPCODES = [ord(opcode.code) for opcode in pickletools.opcodes]


@settings(max_examples=400, deadline=None)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(DATA_PKL)), st.sampled_from(OPCODES), st.booleans()), min_size=1, max_size=8
    )
)
def test_a_pickle_with_instructions_changed_is_read_or_refused(tmp_path_factory, edits):
    """Behind a sound checksum, so that every change reaches the interpreter."""
    raw = bytearray(DATA_PKL)
    for position, opcode, insert in edits:
        raw[position : position + (0 if insert else 1)] = bytes([opcode])
    path = tmp_path_factory.getbasetemp() / "fuzzed-pickle.pt"
    write_archive(path, bytes(raw), {"archive/data/0": bytes(24), "archive/data/1": bytes(24)})
    reads_or_refuses(path)


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (pickle.dumps({}), "a bare pickle"),
        (struct.pack("<Q", 30) + b'{"a":{"dtype":"F32"}}', "safetensors"),
        (b"RIFF1234WAVE", "not a file of `torch.save`"),
        (b"PK\x03\x04", "damaged"),
    ],
)
def test_other_formats_are_named(tmp_path, contents, says):
    path = tmp_path / "x.ckpt"
    path.write_bytes(contents)
    assert says in refusal(path)


def test_the_format_before_1_6_is_named(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert "before version 1.6" in refusal(tmp_path / "x.pt")


def test_other_zip_archives_are_named(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(1))
    assert "a zip archive, but not one of `torch.save`" in refusal(tmp_path / "x.npz")


def test_missing_files_and_directories(tmp_path):
    assert "No such file" in refusal(tmp_path / "missing.pt")
    assert "directory" in refusal(tmp_path)
