"""Checks every array annotation of the package at run time, and keeps the user's cache out of the tests."""

from __future__ import annotations

import os
import tempfile

from jaxtyping import install_import_hook

os.environ["JAXMSS_CACHE"] = tempfile.mkdtemp(prefix="jaxmss-test-cache-")
install_import_hook("jaxmss", "beartype.beartype")
