from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from jaxmss.prefetch import prefetch


def threads() -> int:
    return threading.active_count()


def test_items_come_in_order():
    with prefetch(range(100), ahead=3) as ready:
        assert list(ready) == list(range(100))


def test_items_are_made_ahead_while_the_consumer_works():
    made = []
    enough = threading.Event()

    def items() -> Iterator[int]:
        for item in range(10):
            made.append(item)
            if item == 3:
                enough.set()
            yield item

    with prefetch(items(), ahead=2) as ready:
        assert next(ready) == 0
        # one is consumed, two wait, one more is made and finds no room
        assert enough.wait(5)
        time.sleep(0.3)
        assert made == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [ValueError("broken"), MemoryError(), KeyboardInterrupt()])
def test_an_error_is_raised_where_the_items_are_consumed(error):
    def items() -> Iterator[int]:
        yield 1
        raise error

    before = threads()
    with prefetch(items(), ahead=5) as ready:
        assert next(ready) == 1
        with pytest.raises(type(error)) as caught:
            next(ready)
    assert caught.value is error
    assert threads() == before


def test_leaving_early_stops_the_thread_and_closes_the_generator_in_it():
    made_in, closed_in = [], []

    def items() -> Iterator[int]:
        made_in.append(threading.current_thread())
        try:
            item = 0
            while True:
                yield (item := item + 1)
        finally:
            closed_in.append(threading.current_thread())

    before = threads()
    generator = items()
    with prefetch(generator, ahead=1) as ready:
        assert next(ready) == 1
    assert threads() == before
    assert closed_in == made_in != [threading.current_thread()]


def test_an_error_of_the_consumer_stops_the_thread_and_passes():
    before = threads()

    def consume() -> None:
        with prefetch(iter(range(10**9)), ahead=1) as ready:
            next(ready)
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        consume()
    assert threads() == before


def test_stopping_the_outer_stops_it_where_it_takes_from_the_inner():
    taken = []

    def outer() -> Iterator[int]:
        with prefetch(iter(range(10**9)), ahead=1) as inner:
            for item in inner:
                taken.append(item)
                time.sleep(0.01)
            yield len(taken)

    before = threads()
    with prefetch(outer(), ahead=1):
        time.sleep(0.1)
    assert 0 < len(taken) < 100
    assert threads() == before


def test_one_may_run_inside_another():
    def outer() -> Iterator[int]:
        with prefetch(iter(range(10**9)), ahead=1) as inner:
            yield from inner

    before = threads()
    with prefetch(outer(), ahead=1) as ready:
        assert [next(ready) for _ in range(3)] == [0, 1, 2]
    assert threads() == before


def test_ctrl_c_at_any_moment_ends_it_before_what_it_reads_is_closed():
    code = """
import os, random, signal, sys
from jaxmss.prefetch import prefetch

def blocks(file):
    while True:
        try:
            yield file.read(1)
        except ValueError as error:
            sys.exit(print(error, file=sys.stderr, flush=True))

signal.signal(signal.SIGALRM, signal.default_int_handler)
for _ in range(500):
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-5 + random.random() * 1e-3)  # while it starts, or later
        with open(os.devnull, "rb") as file, prefetch(blocks(file), ahead=2) as ready:
            for _ in range(1000):  # Python itself loses an interrupt within a destructor
                next(ready)
    except (KeyboardInterrupt, RuntimeError):  # the latter of a lock in Python's own Thread.start
        pass
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    assert "closed file" not in done.stderr
