from __future__ import annotations

import jax
import numpy as np
import pytest
from recordings import noise

from jaxmss.data.mixing import Batch, mix, slots
from jaxmss.training.config import Part

PARTS = (Part("vocals", ("vocals",)), Part("accompaniment", ("bass", "bass+drums+other")))


@pytest.fixture
def batch() -> Batch:
    """Two examples: one of vocals and bass, one of vocals and three stems."""
    pcm = np.stack([noise(str(i), 20) for i in range(8)]).reshape(2, 4, 20, 2)
    pcm[0, 2:] = 0
    gain = np.float32([[1, 1, 0, 0], [1, 1, 1, 1]])
    return Batch(pcm, gain, np.zeros((2, 4), bool))


def test_slots_are_enough_for_the_longest_choice_of_each_chunk():
    assert [slots(part) for part in PARTS] == [1, 3]
    assert slots(Part("accompaniment", ("bass+drums+other", "bass"), 2)) == 6


def test_the_mixture_is_the_sum_of_all_parts_exactly(batch):
    mixture, targets = mix(batch, PARTS, ("vocals", "accompaniment"))
    assert (mixture.shape, targets.shape) == ((2, 2, 20), (2, 2, 2, 20))
    assert mixture.dtype == targets.dtype == np.float32
    whole = batch.pcm.astype(np.int64).sum(axis=1).transpose(0, 2, 1)
    np.testing.assert_array_equal(mixture * 32768, whole)
    np.testing.assert_array_equal(targets[:, 0] + targets[:, 1], mixture)
    np.testing.assert_array_equal(targets[:, 0] * 32768, batch.pcm[:, 0].transpose(0, 2, 1))


def test_targets_are_the_parts_of_the_sources_names_in_their_order(batch):
    _, both = mix(batch, PARTS, ("vocals", "accompaniment"))
    _, swapped = mix(batch, PARTS, ("accompaniment", "vocals"))
    _, one = mix(batch, PARTS, ("accompaniment",))
    np.testing.assert_array_equal(swapped, both[:, ::-1])
    np.testing.assert_array_equal(one, both[:, 1:])


def test_gains_polarities_and_swaps_are_of_each_slot(batch):
    changed = batch._replace(gain=np.float32([[0.5, -2, 0, 0], [1, 1, -1, 0.25]]), swap=np.eye(2, 4, dtype=bool))
    mixture, targets = mix(changed, PARTS, ("vocals", "accompaniment"))
    pcm = batch.pcm.transpose(0, 1, 3, 2) / 32768
    np.testing.assert_array_equal(targets[0, 0], 0.5 * pcm[0, 0, ::-1])
    np.testing.assert_array_equal(targets[0, 1], -2 * pcm[0, 1])
    expected = pcm[1, 1, ::-1] - pcm[1, 2] + 0.25 * pcm[1, 3]
    np.testing.assert_array_equal(targets[1, 1], expected)
    np.testing.assert_array_equal(mixture, targets.sum(axis=1))


def test_full_scale_is_one():
    pcm = np.full((1, 1, 3, 1), -32768, np.int16)
    mixture, _ = mix(Batch(pcm, np.ones((1, 1), np.float32), np.zeros((1, 1), bool)), (PARTS[0],), ("vocals",))
    np.testing.assert_array_equal(mixture, np.full((1, 1, 3), -1.0))


def test_compiled_on_the_device_it_mixes_the_same(batch):
    compiled = jax.jit(mix, static_argnums=(1, 2))(batch, PARTS, ("vocals",))
    for one, other in zip(compiled, mix(batch, PARTS, ("vocals",)), strict=True):
        np.testing.assert_array_equal(one, other)
