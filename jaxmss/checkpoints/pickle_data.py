"""Read the data out of a pickle without ever running it.

A pickle is a program for a small stack machine, and the standard unpickler imports and calls whatever the program
names. This interpreter has no such step: a class or function that the file names stays a `Global` (its name), and
"calling" one either looks up one of the constructors that the reader passed in or leaves an inert `Opaque` behind.
No object that came from the file is ever imported, called, or given attributes.

Source: the instruction set is documented in the standard library's `pickletools`, which also decodes the stream.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from jaxmss.errors import CheckpointError

# An instruction of one byte can allocate an empty set (216 bytes), so memory is bounded by their number.
# The largest network of the project, saved with the states of its optimizer, takes 171,000.
MAX_INSTRUCTIONS = 1_000_000
MAX_KEY_LENGTH = 32
MAX_NAME_LENGTH = 1000

# Nothing is ever called, so this list protects nobody: it exists to tell the user that the file is an attack.
# fmt: off
_ATTACK_MODULES = frozenset({
    "os", "posix", "nt", "sys", "subprocess", "socket", "shutil", "runpy", "importlib", "pty", "ctypes", "commands",
    "code", "codeop", "marshal", "webbrowser",
})
_ATTACK_BUILTINS = frozenset({"eval", "exec", "execfile", "compile", "open", "__import__", "input", "breakpoint"})
# fmt: on

_CONTAINERS = (str, bytes, list, tuple, set, frozenset, dict)
_MARK = object()


@dataclass(frozen=True)
class Global:
    """A class or function that the file names. It is never looked up."""

    name: str


class Opaque:
    """An object of a class that is not built. What the file does to it is ignored.

    Attributes:
      name: the class or function in the file that would have made it.
    """

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return f"Opaque({self.name!r})"


@dataclass(eq=False)
class Unfinished:
    """An object whose contents arrive in a later instruction (BUILD): `finish(state)` returns the object itself."""

    finish: Callable[[Any], Any]
    memo_keys: list[int] = field(default_factory=list)


Constructors = dict[str, Callable[..., Any]]


def read_pickle(data: bytes, constructors: Constructors, load_persistent: Callable[[Any], Any]) -> Any:
    """Return the object that a pickle describes: plain containers, numbers, strings and what `constructors` make.

    Args:
      data: the whole pickle, of any protocol.
      constructors: for each global name ("module.name") that may be built, the function called in its place.
      load_persistent: makes an object of a persistent id (PyTorch's storages).

    Raises:
      CheckpointError: for a pickle that names a function used in attacks or does what no checkpoint does.
      Exception: of any kind, for a damaged pickle.
    """
    machine = _Machine(constructors, load_persistent, budget=len(data))
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if count >= MAX_INSTRUCTIONS:
            raise CheckpointError(f"has a pickle of over {MAX_INSTRUCTIONS:,} instructions; save only the weights")
        machine.run(opcode.name, argument)
    (result,) = machine.pop(len(machine.stack))
    return result


def _check_global(name: str) -> None:
    """Refuse a global that no checkpoint has a use for.

    Raises:
      CheckpointError: naming it.
    """
    module, _, function = name.rpartition(".")
    attack = module.partition(".")[0] in _ATTACK_MODULES
    attack |= module in ("builtins", "__builtin__", "io", "_io") and function in _ATTACK_BUILTINS
    if attack:
        raise CheckpointError(f"asks to run {name[:80]!r}: this file is an attack; nothing was run, delete it")


class _Machine:
    """The stack, the marks in it, and the memo."""

    def __init__(self, constructors: Constructors, load_persistent: Callable[[Any], Any], budget: int):
        self.constructors = PLAIN_CONSTRUCTORS | constructors
        self.load_persistent = load_persistent
        self.budget = budget
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE":
                stack.append(None)
            case "NEWTRUE":
                stack.append(True)
            case "NEWFALSE":
                stack.append(False)
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4" | "FLOAT" | "BINFLOAT":
                stack.append(argument)
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                stack.append(argument)
            case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_SET":
                stack.append(set())
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self.pop(int(name[-1]))))
            case "MARK":
                stack.append(_MARK)
            case "TUPLE":
                stack.append(tuple(self.pop_to_mark()))
            case "LIST":
                stack.append(self.pop_to_mark())
            case "DICT":
                stack.append(_pairs_to_dict(self.pop_to_mark()))
            case "FROZENSET":
                stack.append(frozenset(map(_checked_key, self.pop_to_mark())))
            case "POP":
                stack.pop()
            case "POP_MARK":
                self.pop_to_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memoize(argument)
            case "MEMOIZE":
                self.memoize(len(self.memo))
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "APPEND":
                self.extend(self.pop(1))
            case "APPENDS" | "ADDITEMS":
                self.extend(self.pop_to_mark())
            case "SETITEM":
                self.set_items(self.pop(2))
            case "SETITEMS":
                self.set_items(self.pop_to_mark())
            case "GLOBAL":
                self.push_global(argument.replace(" ", "."))
            case "STACK_GLOBAL":
                self.push_global(".".join(self.pop(2)))
            case "REDUCE" | "NEWOBJ":
                function, arguments = self.pop(2)
                self.construct(function, arguments)
            case "NEWOBJ_EX":
                function, arguments, _ = self.pop(3)
                self.construct(function, arguments)
            case "OBJ":
                function, *arguments = self.pop_to_mark()
                self.construct(function, tuple(arguments))
            case "INST":
                arguments = self.pop_to_mark()
                self.push_global(argument.replace(" ", "."))
                self.construct(stack.pop(), tuple(arguments))
            case "BUILD":
                self.build(stack.pop())
            case "PERSID":
                stack.append(self.load_persistent(argument))
            case "BINPERSID":
                stack.append(self.load_persistent(stack.pop()))
            case _:
                raise CheckpointError(f"has the pickle instruction {name}, which no checkpoint needs; do not use it")

    def pop(self, count: int) -> list[Any]:
        """Take the last `count` items off the stack."""
        if len(self.stack) < count:
            raise ValueError("the stack is empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        if any(item is _MARK for item in items):
            raise ValueError("a mark is where an object should be")
        return items

    def pop_to_mark(self) -> list[Any]:
        """Take the items above the last mark, and the mark, off the stack."""
        items = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def memoize(self, key: int) -> None:
        top = self.stack[-1]
        self.memo[key] = top
        if isinstance(top, Unfinished):
            top.memo_keys.append(key)

    def push_global(self, name: str) -> None:
        if len(name) > MAX_NAME_LENGTH:
            raise ValueError("it names a class or function at too great a length")
        _check_global(name)
        self.stack.append(Global(name))

    def construct(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Global | Opaque) or not isinstance(arguments, tuple):
            raise ValueError("it calls something that is neither a class nor a function")
        constructor = self.constructors.get(function.name) if isinstance(function, Global) else None
        if constructor is None:
            self.stack.append(Opaque(function.name))
            return
        # constructors copy what they are given, which may be one long list from the memo again and again
        self.budget -= sum(len(argument) for argument in arguments if isinstance(argument, _CONTAINERS))
        if self.budget < 0:
            raise ValueError("it copies more than it holds")
        self.stack.append(constructor(*arguments))

    def build(self, state: Any) -> None:
        """Finish what waits for its contents; the attributes of anything else are ignored."""
        top = self.stack[-1]
        if isinstance(top, Unfinished):
            self.stack[-1] = finished = top.finish(state)
            for key in top.memo_keys:
                self.memo[key] = finished

    def extend(self, items: list[Any]) -> None:
        match self.stack[-1]:
            case list() as target:
                target.extend(items)
            case set() as target:
                target.update(map(_checked_key, items))
            case Opaque():
                pass
            case target:
                raise ValueError(f"it appends to a {type(target).__name__}")

    def set_items(self, items: list[Any]) -> None:
        match self.stack[-1]:
            case dict() as target:
                target.update(_pairs_to_dict(items))
            case Opaque():
                pass
            case target:
                raise ValueError(f"it sets items of a {type(target).__name__}")


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError("it makes bytes in a way that no pickler does")
    return text.encode("latin1")


def _make_set(items: Iterable[Any] = ()) -> set[Any]:
    return {_checked_key(item) for item in items}


def _make_dict(pairs: Iterable[tuple[Any, Any]] = ()) -> dict[Any, Any]:
    return {_checked_key(key): value for key, value in pairs}


def _pairs_to_dict(items: list[Any]) -> dict[Any, Any]:
    return {_checked_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _checked_key(key: Any) -> Any:
    """Return `key` if it is hashed in little time, which a tuple of tuples of tuples, each twice the last, is not."""
    items = key if isinstance(key, tuple | frozenset) else ()
    if len(items) > MAX_KEY_LENGTH or any(isinstance(item, tuple | frozenset) for item in items):
        raise ValueError("a key of a dict or set is a long or nested tuple")
    return key


# The standard library's containers. Protocol 2, PyTorch's, has no instruction for sets and bytes: the latter come as
# `_codecs.encode(text, "latin1")`.
PLAIN_CONSTRUCTORS: Constructors = {
    "collections.OrderedDict": _make_dict,
    "collections.defaultdict": lambda factory=None: {},
    "_codecs.encode": _encode,
}
for _module in ("builtins", "__builtin__"):
    PLAIN_CONSTRUCTORS |= {f"{_module}.set": _make_set, f"{_module}.frozenset": _make_set}
    PLAIN_CONSTRUCTORS |= {f"{_module}.bytes": lambda: b""}
