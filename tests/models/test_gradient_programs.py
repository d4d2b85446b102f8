"""What the compiler makes of the gradients: what is to be computed again is, and only sums cross between devices."""

from __future__ import annotations

import json
import sys

import gradient_programs
import simulated


def test_rematerialisation_computes_blocks_again():
    kept, again = (gradient_programs.compiled(gradient_programs.CWS, remat) for remat in (False, True))
    assert again.cost_analysis()["flops"] > 1.05 * kept.cost_analysis()["flops"]


def test_rematerialisation_computes_every_level_of_demucs_again():
    kept, again = (gradient_programs.compiled(gradient_programs.TIME, remat).as_text() for remat in (False, True))
    assert again.count(" erf(") == 2 * kept.count(" erf(") > 0  # of its GELUs


def test_only_sums_of_the_demucs_networks_cross_between_devices():
    found = simulated.run([sys.executable, gradient_programs.__file__], devices=2)
    assert json.loads(found) == {name: ["all-reduce"] for name in ("demucs", "hdemucs", "htdemucs")}
