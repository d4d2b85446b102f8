"""Checks every array annotation of the package at run time; keeps the user's cache and shell out of the tests."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile

from jaxtyping import install_import_hook

os.environ["JAXMSS_CACHE"] = tempfile.mkdtemp(prefix="jaxmss-test-cache-")
atexit.register(shutil.rmtree, os.environ["JAXMSS_CACHE"], ignore_errors=True)
install_import_hook("jaxmss", "beartype.beartype")
# a shell starts what it runs in the background deaf to Ctrl-C, and so would be all processes that the tests interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
