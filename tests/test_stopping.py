"""What a run does when it is asked to stop; `test_training_kills` has SIGTERM."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from jaxmss.training.stopping import Sigterm


@pytest.fixture
def handlers() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_ctrl_c_that_is_discarded_where_it_comes_is_raised_after_the_step():
    sigterm = Sigterm()
    assert not sigterm.stops()
    with suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        sigterm.stops()


@pytest.mark.usefixtures("handlers")
def test_a_process_that_was_started_deaf_to_ctrl_c_stays_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sigterm = Sigterm()
    os.kill(os.getpid(), signal.SIGINT)
    assert not sigterm.stops()
