"""One step on 1, 2 and 8 simulated devices, with the state copied or cut: the same numbers, and no needless traffic."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import simulated
import training_runs

CASES = {
    "two": {"devices": 2},
    "eight": {"devices": 8},
    "cut": {"devices": 8, "fsdp": 4},
    "parts": {"devices": 8, "accumulate": 2},
    "levels": {"devices": 2, "width": 8, "levels": 3, "dtype": "bfloat16"},
    "batch": {"devices": 8, "batch": 12},
    "parts of parts": {"devices": 8, "accumulate": 4},
    "odd group": {"devices": 8, "fsdp": 3},
    "remat": {"devices": 2, "remat": True},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    """All cases, run by one process that simulates 8 devices."""
    command = [sys.executable, training_runs.__file__]
    file = simulated.once(
        tmp_path_factory, "sharding.npz", lambda file: simulated.run([*command, file, json.dumps(CASES)], devices=8)
    )
    return training_runs.read(file)


@pytest.mark.parametrize("case", ["two", "eight", "cut"])
def test_devices_do_not_change_losses_gradients_or_statistics(runs, case):
    training_runs.assert_same(runs[case], training_runs.alone())


@pytest.mark.parametrize("case", ["two", "eight", "cut"])
def test_devices_change_gradients_at_kinks_alone(runs, case):
    training_runs.assert_same_at_kinks(runs[case], training_runs.alone())


def test_devices_do_not_change_accumulated_gradients(runs):
    training_runs.assert_same(runs["parts"], training_runs.alone(accumulate=2))


@pytest.mark.parametrize("case", ["two", "eight", "parts"])
def test_only_sums_cross_between_devices(runs, case):
    kinds = {key for key in runs[case] if key.startswith("collectives/")}
    assert kinds == {"collectives/all-reduce"}


@pytest.mark.parametrize("case", ["two", "eight", "cut", "parts", "levels"])
def test_each_gradient_is_summed_once(runs, case):
    kernels = [key for key, array in runs[case].items() if key.startswith("last.params") and array.ndim > 1]
    found = {place: int(runs[case][f"kernels summed {place}"]) for place in ("outside", "in loops")}
    assert found == {"outside": len(kernels), "in loops": 0}
    assert len(kernels) > 5


def test_rematerialisation_asks_other_devices_for_nothing_again(runs):
    assert runs["remat"]["collectives/all-reduce"] == runs["two"]["collectives/all-reduce"]
    training_runs.assert_same(runs["remat"], runs["two"])


def test_sums_are_in_float32_whatever_the_network_computes_in(runs):
    assert list(runs["levels"]["types summed"]) == ["f32"]


def test_fsdp_gathers_each_large_parameter_once_and_nothing_else(runs):
    large = [key for key, array in runs["cut"].items() if key.startswith("last.params") and array.size >= 2**14]
    kinds = {key for key in runs["cut"] if key.startswith("collectives/")}
    assert kinds == {"collectives/all-gather", "collectives/all-reduce"}
    assert runs["cut"]["collectives/all-gather"] == len(large) > 5


def test_fsdp_cuts_every_large_array(runs):
    state = {key: array for key, array in runs["cut"].items() if key.startswith("last")}
    large = sum(array.nbytes for array in state.values() if array.size >= 2**14)
    assert runs["cut"]["bytes cut"] == large > 0.9 * sum(array.nbytes for array in state.values())
    assert runs["eight"]["bytes cut"] == 0


def test_what_cannot_be_divided_is_refused_with_the_numbers(runs):
    assert runs["batch"]["error"] == (
        "Batch size (12) must be divisible by the number of devices (8); set data.batch to a multiple of 8"
    )
    assert runs["parts of parts"]["error"] == (
        "Batch size (16) must be divisible by the number of devices (8) times compute.accumulate (4); "
        "set data.batch to a multiple of 32"
    )
    assert "number of devices (8) must be divisible by compute.fsdp (3)" in str(runs["odd group"]["error"])
