"""Systems as values: what they may say, what of them is needed, and which networks share windows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from jaxmss.config import to_json
from jaxmss.errors import InputError
from jaxmss.options import Options
from jaxmss.published_systems import SYSTEMS
from jaxmss.systems import Part, System, linked, needed, read_system

VOCALS = Part("v", ("vocals",))
OTHER = Part("i", ("other",), minus=("vocals",))


def brief(parts: tuple[Part, ...]) -> list[tuple]:
    return [(part.network, part.stems, part.weights) for part in parts]


# what is needed


def test_one_stem_needs_one_network():
    assert brief(needed(SYSTEMS["bytemss"], ["vocals"])) == [("cws-vocals", ("vocals",), (1.0,))]


def test_a_stem_needs_what_is_subtracted_for_it():
    parts = needed(SYSTEMS["bytemss"], ["other"])
    assert brief(parts) == [("cws-vocals", ("vocals",), (1.0,)), ("cws-joint", ("other",), (1.0,))]


def test_a_chain_of_subtractions_is_needed_to_its_end():
    system = System((Part("c", ("drums",), minus=("other",)), OTHER, VOCALS, Part("d", ("bass",))))
    assert {part.network for part in needed(system, ["drums"])} == {"v", "i", "c"}


def test_a_bag_needs_only_the_networks_that_give_the_stem():
    assert brief(needed(SYSTEMS["mdx"], ["bass"])) == [("0d19c1c6", ("bass",), (1.0,)), ("7ecf8ec1", ("bass",), (1.0,))]
    assert [part.network for part in needed(SYSTEMS["htdemucs_ft"], ["vocals"])] == ["04573f0d"]


def test_a_network_that_hears_the_same_twice_runs_once():
    system = System(
        (Part("n", ("bass",)), VOCALS, Part("n", ("drums", "bass"), (1.0, 2.0)), replace(VOCALS, segment=3.0))
    )
    assert brief(needed(system, system.sources)) == [
        ("n", ("bass", "drums"), (3.0, 1.0)),
        ("v", ("vocals",), (1.0,)),
        ("v", ("vocals",), (1.0,)),  # in other windows
    ]


# which share windows


@pytest.mark.parametrize("turned", [1, -1])
def test_parts_are_run_after_what_they_subtract_and_unlinked_ones_apart(turned):
    drums, bass = Part("c", ("drums",), minus=("other", "vocals")), Part("d", ("bass",))
    groups = linked((VOCALS, OTHER, drums, bass)[::turned])
    assert sorted(groups, key=len) == [(bass,), (VOCALS, OTHER, drums)]


def test_all_that_gives_a_subtracted_stem_is_linked():
    also, apart = Part("w", ("vocals",)), Part("j", ("other",))
    [large] = [group for group in linked((VOCALS, OTHER, apart, also)) if len(group) > 1]
    assert set(large) == {VOCALS, also, OTHER}
    assert large[-1] == OTHER


def test_groups_join_where_one_part_subtracts_from_both():
    bass, drums = Part("b", ("bass",)), Part("d", ("drums",), minus=("bass",))
    last = Part("l", ("piano",), minus=("drums", "other"))
    [group] = linked((last, OTHER, drums, bass, VOCALS))
    assert set(group) == {VOCALS, OTHER, bass, drums, last}
    assert group[-1] == last
    assert group.index(bass) < group.index(drums)
    assert group.index(VOCALS) < group.index(OTHER)


# options


def test_what_is_given_goes_before_what_the_part_says():
    part = Part("n", ("bass",), segment=44.0, overlap=0.15, shifts=2)
    assert part.options(Options()) == Options(segment=44.0, overlap=0.15, shifts=2)
    given = Options(segment=10.0, overlap=0.0, shifts=1, batch_size=3)
    assert part.options(given) == given


# JSON


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_comes_back_from_json(name, tmp_path):
    (tmp_path / "system.json").write_text(json.dumps(to_json(SYSTEMS[name])))
    assert read_system(tmp_path / "system.json") == SYSTEMS[name]


def test_only_what_differs_need_be_written(tmp_path):
    parts = '{"network": "v", "stems": ["vocals"]}, {"network": "i", "stems": ["other"], "minus": ["vocals"]}'
    (tmp_path / "system.json").write_text(f'{{"parts": [{parts}]}}')
    assert read_system(tmp_path / "system.json") == System((VOCALS, OTHER))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not a system in JSON"),
        ("[" * 10_000, "is not a system in JSON"),
        ("[]", "must be a JSON object"),
        ('{"parts": [], "parts": []}', "'parts' stands twice in one object"),
        ('{"parts": [{"network": "v", "stems": ["vocals"], "weights": [1e308]}]}', "'weights' .*at most 1,000,000"),
        ('{"parts": [{"network": "v", "stems": ["vocals"], "weights": [1%s]}]}' % ("0" * 400), "'weights' .*too large"),
        ("{}", "System {} lacks the field 'parts'"),
        ('{"parts": [{"network": "v"}]}', "Part .*'network': 'v'.* lacks the field 'stems'"),
        ('{"parts": [{"netwrk": "v", "stems": ["vocals"]}]}', "'netwrk' is not one of Part; did you mean 'network'"),
        ('{"parts": [{"network": "v", "stems": "vocals"}]}', "'stems' .*'vocals'"),
        ('{"parts": [{"network": "v", "stems": ["vocals"], "overlap": "much"}]}', "'overlap' .*'much'"),
        ('{"parts": [{"network": "v", "stems": ["vocals"], "normalize_track": 1}]}', "'normalize_track' .*1"),
    ],
)
def test_a_file_that_is_no_system_is_refused_in_a_line_that_names_it(text, told, tmp_path):
    file = tmp_path / "system.json"
    file.write_text(text)
    with pytest.raises(InputError, match=told) as refused:
        read_system(file)
    assert str(refused.value).startswith(str(file))
    assert "\n" not in str(refused.value)


# bad systems


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (lambda: (), "'parts'.*at least one network"),
        (lambda: (Part("", ("vocals",)),), "'network' .*name a published model"),
        (lambda: (Part("v", ()),), "'stems' .*what v gives"),
        (lambda: (Part("v", ("vocals", "vocals")),), "'stems' .*name each once"),
        (lambda: (Part("v", ("vocals",), (1.0, 2.0)),), "'weights' .*one for each of vocals"),
        (lambda: (Part("v", ("vocals",), (0.0,)),), "'weights' .*above 0"),
        (lambda: (Part("v", ("vocals",), (float("nan"),)),), "'weights' .*above 0"),
        (lambda: (Part("v", ("vocals",), segment=-1.0),), "'segment' .*-1"),
        (lambda: (Part("v", ("vocals",), overlap=0.7),), "'overlap' .*0.7"),
        (lambda: (VOCALS, replace(OTHER, overlap=0.1)), "'overlap' .*0.1.*cut as what it subtracts"),
        (lambda: (VOCALS, replace(OTHER, shifts=2)), "'shifts' .*2.*cut as what it subtracts"),
        (lambda: (VOCALS, replace(OTHER, minus=("vocal",))), "i subtracts 'vocal', no stem; did you mean 'vocals'"),
        (lambda: (replace(VOCALS, minus=("other",)), OTHER), "in a circle: v minus other, i minus vocals"),
        (lambda: (replace(VOCALS, minus=("vocals",)),), "in a circle: v minus vocals"),
    ],
)
def test_bad_systems_are_refused_with_the_value(parts, told):
    with pytest.raises(InputError, match=told):
        System(parts())
