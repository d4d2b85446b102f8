"""Every published architecture at full size, against the outputs of the published implementations."""

from __future__ import annotations

import numpy as np
import optimised
import pytest
from golden_weights import forward_golden, golden_state_dict, names, wave

from jaxmss import models
from jaxmss.checkpoints.torch_names import from_state_dict


@pytest.mark.parametrize(
    "arch", ["cws-vocals", "cws-joint", "cws-small", "resunet143-subband", "resunet143-ismir2021", "mobilenet-subband"]
)
def test_network_reproduces_the_published_one(arch):
    config = models.architecture(arch)
    variables = from_state_dict(golden_state_dict(names(arch)), models.variable_shapes(config), config, arch)
    output = optimised.jit(models.build(config).apply)(variables, wave(0, (1, 2, 44100)))
    expected = forward_golden(arch)
    assert output.shape == (1, len(config.sources), 2, 44100)
    assert np.linalg.norm(output.reshape(expected.shape) - expected) <= 2e-5 * np.linalg.norm(expected)
