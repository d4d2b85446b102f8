"""Audio files can be handled without starting JAX."""

from __future__ import annotations

import subprocess
import sys


def test_audio_does_not_import_jax():
    code = "import sys, jaxmss.audio.stems, jaxmss.audio.reading, jaxmss.audio.finding; print('jax' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
