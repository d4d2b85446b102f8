from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_run

from jaxmss.config import from_json, to_json
from jaxmss.errors import InputError
from jaxmss.training.agreement import differing
from jaxmss.training.config import Config, Data, Optim, Part, Watch
from jaxmss.training.run_directory import FREE, claimed

CONFIG = tiny_run.config()


def claim(directory: Path, config=CONFIG) -> None:
    with claimed(directory, config):
        pass


def claim_and_save(directory: Path) -> None:
    """Begin a run and have it save a checkpoint."""
    claim(directory)
    (directory / "checkpoints/1").mkdir()


def stored(directory: Path) -> dict:
    return json.loads((directory / "config.json").read_text())


def test_a_new_run_notes_its_config_and_versions(tmp_path):
    claim(tmp_path / "runs/new")
    noted = stored(tmp_path / "runs/new")
    assert noted["config"]["model"]["widths"] == list(CONFIG.model.widths)
    assert {"python", "jax", "jaxmss"} <= set(noted["versions"])


def test_the_same_config_goes_on(tmp_path):
    claim(tmp_path)
    claim(tmp_path)


def test_another_config_is_refused_with_the_fields_that_differ(tmp_path):
    claim_and_save(tmp_path)
    other = replace(CONFIG, optim=Optim(lr=5e-4), data=replace(CONFIG.data, batch=4, root="elsewhere"), seed=3)
    told = r"another config: data.batch 2 -> 4, optim.lr 0.001 -> 0.0005, seed 0 -> 3; go on with the same config"
    with pytest.raises(InputError, match=told):
        claim(tmp_path, other)
    assert stored(tmp_path)["config"]["optim"]["lr"] == 1e-3


def test_other_parts_are_another_config(tmp_path):
    claim_and_save(tmp_path)
    parts = (*Data().parts[:1], Part("accompaniment", ("drums",)))
    with pytest.raises(InputError, match=r"another config: data\.parts"):
        claim(tmp_path, replace(CONFIG, data=replace(CONFIG.data, parts=parts)))


def test_how_long_and_where_a_run_trains_may_change(tmp_path):
    claim_and_save(tmp_path)
    other = replace(CONFIG, hours=1.0, data=replace(CONFIG.data, root="elsewhere", threads=2), watch=Watch(every=1))
    claim(tmp_path, other)
    assert stored(tmp_path)["config"]["hours"] == 1.0


def flat(values: dict, prefix: str = "") -> dict[str, object]:
    """The fields of a config by name, such as ``optim.lr``."""
    found = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


OTHER = {  # values of fields that cannot be doubled
    "data.root": "elsewhere",
    "data.folders": ["vocals", "other"],
    "data.parts": [{"name": "vocals", "choices": ["other"]}],
    "data.gain": [0.5, 2.0],
    "data.remix": 0.5,
    "data.swap_channels": 0.5,
    "data.flip_polarity": 0.5,
    "optim.ema": 0.5,
    "compute.dtype": "bfloat16",
    "watch.profile": [1, 2],
    "init": "cws-vocals",
}


def test_every_field_but_of_how_long_where_and_how_fast_must_stay():
    single = replace(CONFIG, data=replace(CONFIG.data, parts=(Part("vocals", ("vocals",)), Part("rest", ("other",)))))
    found = set()
    for name, value in flat(to_json(single)).items():
        if name.startswith("model."):
            continue
        *groups, field = name.split(".")
        values = json.loads(json.dumps(to_json(single)))
        inner = values
        for group in groups:
            inner = inner[group]
        usual = not value if isinstance(value, bool) else 2 * (value or 1)
        inner[field] = OTHER.get(name, usual)
        fields = differing(single, from_json(Config, values), FREE)
        assert [text.split()[0] for text in fields] in ([], [name])
        if not fields:
            found.add(name)
    assert found == {
        *("hours", "data.root", "data.threads", "optim.give_up_after", "compute.remat", "compute.fsdp"),
        *("checkpoints.every", "checkpoints.keep", "validation.every", "validation.excerpts"),
        *("watch.every", "watch.profile"),
    }
    assert differing(CONFIG, replace(CONFIG, model=replace(CONFIG.model, blocks=2)), FREE) == ["model.blocks 1 -> 2"]


def test_a_run_that_has_saved_nothing_may_get_another_config(tmp_path):
    claim(tmp_path)
    claim(tmp_path, replace(CONFIG, init="cws-vocals"))
    assert stored(tmp_path)["config"]["init"] == "cws-vocals"


def test_a_run_of_an_earlier_version_has_the_defaults_of_fields_that_it_lacks(tmp_path):
    claim_and_save(tmp_path)
    noted = stored(tmp_path)
    del noted["config"]["loss"]["conserve_after"], noted["start"]
    (tmp_path / "config.json").write_text(json.dumps(noted))
    claim(tmp_path)


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("!")
    with pytest.raises(InputError, match=r"is no run, but holds thesis\.tex; name a new directory"):
        claim(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


SHORT = '{"config": {"data": {"gain": [1.0]}}}'


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"config": 3}', '{"config": {"widths": [4]}}', SHORT])
def test_a_config_of_something_else_is_left_alone(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json is not the config of a run \(.*name a new directory"):
        claim(tmp_path)
    assert (tmp_path / "config.json").read_text() == content


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="run cannot be written: File exists"):
        claim(tmp_path / "run")


def test_a_name_that_is_no_text_is_refused(tmp_path):
    directory = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(InputError, match=r"caf\\udce9' is not UTF-8"):
        claim(directory)
    assert not directory.exists()


def test_a_second_process_is_told_which_one_trains(tmp_path):
    claim(tmp_path)
    hold = "import fcntl, sys; file = open(sys.argv[1], 'a+'); fcntl.flock(file, fcntl.LOCK_EX)"
    hold += "; file.truncate(0); file.write('process 1 on mars'); file.flush(); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path / "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=r"is being trained in by process 1 on mars; stop it"):
            claim(tmp_path)
        other.kill()
    claim(tmp_path)  # the lock ends with its holder
