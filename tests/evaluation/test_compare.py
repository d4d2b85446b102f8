"""`jaxmss compare`: what it finds between two evaluations, and that it finds nothing where there is nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats

from jaxmss import cli
from jaxmss.evaluation.compare import difference
from jaxmss.evaluation.results import COLUMNS


def write_results(folder, scores, system="a system"):
    """Write results.json with `scores`: track -> stem -> dB of every measure, or of each."""
    tracks = {
        track: {stem: dB if isinstance(dB, dict) else dict.fromkeys(COLUMNS, dB) for stem, dB in stems.items()}
        for track, stems in scores.items()
    }
    stems = {stem: {} for row in tracks.values() for stem in row}
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"system": system, "tracks": tracks, "stems": stems}))
    return folder


def run(capsys, *arguments) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", *map(str, arguments)])
    told = capsys.readouterr()
    return ended.value.code, told.out + told.err


def test_interval_is_that_of_a_bootstrap_and_p_that_of_a_randomisation_test():
    rng = np.random.default_rng(3)
    for count in (8, 30):
        first = rng.normal(5, 3, count)
        second = first + rng.normal(0.4, 1, count)
        found = difference(first, second)
        expected = scipy.stats.bootstrap((second - first,), np.mean, n_resamples=99_999, method="percentile", rng=rng)
        np.testing.assert_allclose(found.interval, expected.confidence_interval, rtol=0, atol=0.04)
        test = scipy.stats.permutation_test(
            (second - first,), np.mean, permutation_type="samples", n_resamples=20_000, vectorized=True, rng=rng
        )
        assert found.p == pytest.approx(test.pvalue, abs=1e-9 if count == 8 else 0.01)
        assert found.mean == pytest.approx(np.mean(second) - np.mean(first))


def test_systems_without_a_difference_differ_significantly_in_one_case_of_twenty():
    rng = np.random.default_rng(4)
    for count in (7, 20):
        found = [difference(*rng.normal(size=(2, count))).significant for _ in range(400)]
        assert np.mean(found) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_equal_systems_do_not_differ():
    same = np.array([3.0, 4.0, 7.0, 1.0, 5.0, 6.0, 2.0, 8.0])
    found = difference(same, same)
    assert (found.mean, found.interval, found.p) == (0, (0, 0), 1)


def test_five_tracks_or_one_prove_nothing():
    found = difference(np.zeros(5), np.full(5, 10.0) + np.arange(5))
    assert found.interval[0] > 9
    assert not found.significant
    assert difference(np.zeros(6), np.full(6, 10.0) + np.arange(6)).significant
    assert difference(np.zeros(1), np.ones(1)).interval is None


def test_table_tells_significant_stems_and_tracks_that_are_left_out(tmp_path, capsys):
    rng = np.random.default_rng(5)
    scores = {f"track {i}": {"vocals": rng.normal(5, 3), "drums": rng.normal(6, 3)} for i in range(12)}
    better = {
        track: {"vocals": row["vocals"] + rng.normal(0.5, 0.1), "drums": row["drums"] + rng.normal(0, 0.5)}
        for track, row in scores.items()
    }
    scores["only here"] = better["and there"] = better["track 3"]
    better["track 5"] = {"vocals": None, "drums": better["track 5"]["drums"]}  # no frame was scored
    a, b = write_results(tmp_path / "a", scores, "old"), write_results(tmp_path / "b", better, "new")
    status, told = run(capsys, a, b / "results.json")
    assert status == 0
    assert "Left out, for only A has scores of them: only here" in told
    assert "Left out, for only B has scores of them: and there" in told
    lines = told.splitlines()
    assert [line.split()[0] for line in lines if "95 % interval" in line] == [
        "SDR",
        "ISR",
        "SIR",
        "SAR",
        "track",
        "SI-SDR",
    ]
    start = next(i for i, line in enumerate(lines) if line.startswith("SDR"))
    vocals, drums = (line.split() for line in lines[start + 1 : start + 3])
    assert (vocals[0], vocals[1], vocals[-1]) == ("vocals", "11", "significant")
    assert 0.4 < float(vocals[4]) < 0.6
    assert (drums[0], drums[1]) == ("drums", "12")
    assert drums[-1] != "significant"


def test_measures_that_depend_on_the_other_stems_are_compared_among_the_same_stems_alone(tmp_path, capsys):
    a = write_results(tmp_path / "a", {"x": {"vocals": 1.0}, "y": {"vocals": 1.0, "drums": 2.0}})
    b = write_results(tmp_path / "b", {"x": {"vocals": 3.0, "drums": 2.0}, "y": {"vocals": 3.0, "drums": 2.0}})
    status, told = run(capsys, a, b)
    assert status == 0
    lines = told.splitlines()
    counted = {line.split()[0]: lines[i + 1].split()[1] for i, line in enumerate(lines) if "95 % interval" in line}
    assert counted == {"SDR": "2", "ISR": "2", "SIR": "1", "SAR": "1", "track": "2", "SI-SDR": "2"}
    assert "SIR and SAR depend on the stems scored together" in told


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There are no results in"),
        ("{", "cannot be read"),
        ("[]", "holds no JSON object"),
        (
            '{"system": "x", "tracks": {"A": {"vocals": {"SDR": "5"}}}, "stems": {}}',
            "holds no results of an evaluation",
        ),
        ('{"system": "x", "tracks": {"other": {}}, "stems": {"vocals": {}}}', "have no track in common: A; other"),
        ('{"system": "x", "tracks": {"A": {}}, "stems": {"bass": {}}}', "no stem in common: vocals; bass"),
    ],
)
def test_what_cannot_be_compared_gets_one_line_and_status_2(tmp_path, capsys, content, message):
    a = write_results(tmp_path / "a", {"A": {"vocals": 1.0}})
    b = tmp_path / "b"
    b.mkdir()
    if content is not None:
        (b / "results.json").write_text(content)
    status, told = run(capsys, a, b)
    assert status == 2
    [line] = told.splitlines()
    assert line.startswith("jaxmss: ")
    assert message in line
