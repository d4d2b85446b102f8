"""What the compiler makes of the gradients: what is to be computed again is."""

from __future__ import annotations

import gradient_programs
import pytest


def test_rematerialisation_computes_blocks_again():
    kept, again = (gradient_programs.compiled(gradient_programs.CWS, remat) for remat in (False, True))
    assert again.cost_analysis()["flops"] > 1.05 * kept.cost_analysis()["flops"]


@pytest.mark.parametrize("name", ["demucs", "hdemucs", "htdemucs"])
def test_rematerialisation_computes_levels_and_layers_of_demucs_again(name):
    network = gradient_programs.DEMUCS[name]
    kept, again = (gradient_programs.compiled(network, remat).as_text().count(" erf(") for remat in (False, True))
    assert again > 1.5 * kept > 0  # GELUs
