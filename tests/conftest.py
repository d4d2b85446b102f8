"""Checks every array annotation of the package at run time; keeps the user's cache and shell out of the tests."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile

import pytest
from jaxtyping import install_import_hook

os.environ["JAXMSS_CACHE"] = tempfile.mkdtemp(prefix="jaxmss-test-cache-")
atexit.register(shutil.rmtree, os.environ["JAXMSS_CACHE"], ignore_errors=True)
install_import_hook("jaxmss", "beartype.beartype")
# compiling would be most of the tests' time; what is compared with published outputs is compiled by `optimised.jit`
SOON = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {SOON}"
# several processes test at a time: the threads of PyTorch and NumPy would wait for each other, busily
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# a shell starts what it runs in the background deaf to Ctrl-C, and so would be all processes that the tests interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: some tests wait for processes, or for a file system."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes minutes, lest one process end with it while the others have nothing left to do."""
    items.sort(key=lambda item: item.path.stem not in ("test_training_kills", "test_quickstart", "test_sharding"))
