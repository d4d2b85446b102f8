"""Checks every array annotation of the package at run time, and keeps the user's cache out of the tests."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

from jaxtyping import install_import_hook

os.environ["JAXMSS_CACHE"] = tempfile.mkdtemp(prefix="jaxmss-test-cache-")
atexit.register(shutil.rmtree, os.environ["JAXMSS_CACHE"], ignore_errors=True)
install_import_hook("jaxmss", "beartype.beartype")
