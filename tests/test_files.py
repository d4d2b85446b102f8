from __future__ import annotations

import math
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny
from audio.files import FFMPEG_FORMATS, music, write_any, write_with_ffmpeg, write_with_soundfile

from jaxmss.audio.reading import open_audio, read
from jaxmss.audio.resampling import resample
from jaxmss.errors import InputError
from jaxmss.files import Output, Report, find_tracks, separate_files, stem_blocks
from jaxmss.separator import Options, Separator, separate


@pytest.fixture(scope="module")
def vocals() -> Separator:
    return tiny.model("cws-small")


@pytest.fixture(scope="module")
def joint() -> Separator:
    return tiny.model("cws-joint")


def run(
    model: Separator,
    inputs: list[Path],
    directory: Path,
    sources: tuple[str, ...] | None = None,
    residual: str | None = None,
    **output: object,
) -> list[Report]:
    destination = Output(directory, **output)
    sources = sources or model.sources
    return list(separate_files(model, inputs, sources, destination, residual=residual, options=Options()))


def run_one(model: Separator, path: Path, directory: Path, **options: object) -> Report:
    [report] = run(model, [path], directory, **options)
    assert report.error is None
    return report


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def save(path: Path, waveform: np.ndarray, rate: int = 44100, subtype: str = "FLOAT") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform.T, rate, subtype=subtype, format="WAV" if path.suffix == ".wav" else None)
    return path


# what goes in


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3", "ogg", "m4a", "stem.mp4"])
def test_every_format_is_separated_at_its_rate_channels_and_exact_length(vocals, tmp_path, extension):
    path = write_any(tmp_path, extension, music(1.3))
    mixture, rate = read(path)
    run_one(vocals, path, tmp_path / "out", format="wav32f", clipping="none")
    [file] = (tmp_path / "out").rglob("vocals.wav")
    stem, stem_rate = soundfile.read(file, dtype="float32", always_2d=True)
    assert stem_rate == rate
    assert stem.T.shape == mixture.shape
    np.testing.assert_allclose(stem.T, separate(vocals, mixture)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 192000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("frames", [1, 12347])
def test_every_rate_and_channel_count_comes_back(vocals, tmp_path, rate, channels, frames):
    path = save(tmp_path / "music.wav", music(frames / rate, rate, channels), rate)
    run_one(vocals, path, tmp_path / "out")
    info = soundfile.info(tmp_path / "out/music/vocals.wav")
    assert (info.samplerate, info.channels, info.frames) == (rate, channels, frames)


def test_another_rate_is_converted_there_and_back(vocals, tmp_path):
    mixture = music(2.0, 48000)
    path = save(tmp_path / "music.wav", mixture, 48000)
    run_one(vocals, path, tmp_path / "out", format="wav32f", clipping="none")
    stem = soundfile.read(tmp_path / "out/music/vocals.wav", dtype="float32")[0].T
    expected = resample(separate(vocals, resample(mixture, 48000, 44100))[0], 44100, 48000, length=mixture.shape[1])
    np.testing.assert_allclose(stem, expected, rtol=0, atol=1e-5)


def test_silence_is_separated(vocals, tmp_path):
    path = save(tmp_path / "silence.wav", np.zeros((2, 5000), np.float32))
    run_one(vocals, path, tmp_path / "out")
    assert np.isfinite(soundfile.read(tmp_path / "out/silence/vocals.wav")[0]).all()


@pytest.mark.parametrize("name", ["two words", 'it\'s "so" `$HOME`', "söng 日本 🎵", "a.b.c", "-o"])
def test_any_name_is_kept(vocals, tmp_path, name):
    path = save(tmp_path / f"{name}.wav", music(0.1))
    run_one(vocals, path, tmp_path / "out")
    assert names(tmp_path / "out") == [name, f"{name}/vocals.wav"]


# what comes out


@pytest.mark.parametrize("rate", [44100, 48000, 8000])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_stem_and_the_rest_sum_to_the_mixture(joint, tmp_path, rate, channels):
    mixture = music(1.7, rate, channels)
    path = save(tmp_path / "music.wav", mixture, rate)
    run_one(joint, path, tmp_path, sources=("drums",), residual="no_drums", format="wav32f", clipping="none")
    assert names(tmp_path / "music") == ["drums.wav", "no_drums.wav"]
    parts = [soundfile.read(file, always_2d=True)[0].T for file in (tmp_path / "music").iterdir()]
    np.testing.assert_allclose(sum(parts), mixture, rtol=0, atol=1e-6)


def test_only_the_wanted_heads_are_computed(joint, tmp_path):
    path = save(tmp_path / "music.wav", music(1.0))
    with open_audio(path) as reader:
        [*blocks] = stem_blocks(joint, reader, ("other", "bass"), False, Options())
    stems = np.concatenate(blocks, axis=-1)
    np.testing.assert_allclose(stems, separate(joint, music(1.0))[[2, 0]], rtol=0, atol=1e-5)

    def operations(sources: tuple[str, ...]) -> float:
        mixture = np.zeros((1, 2, 66150), np.float32)
        return joint._apply.lower(joint.variables, mixture, None, sources=sources).cost_analysis()["flops"]

    assert operations(("bass",)) < 0.9 * operations(joint.sources)


@pytest.mark.parametrize(
    ("format", "extension", "kind"),
    [
        ("wav16", "wav", ("WAV", "PCM_16")),
        ("wav24", "wav", ("WAV", "PCM_24")),
        ("wav32f", "wav", ("WAV", "FLOAT")),
        ("flac", "flac", ("FLAC", "PCM_24")),
        ("mp3", "mp3", ("MP3", "MPEG_LAYER_III")),
    ],
)
def test_every_output_format_is_written(vocals, tmp_path, format, extension, kind):
    mixture = music(0.5) / 10
    path = save(tmp_path / "music.wav", mixture)
    run_one(vocals, path, tmp_path, format=format)
    file = tmp_path / f"music/vocals.{extension}"
    info = soundfile.info(file)
    assert (info.format, info.subtype) == kind
    stem, expected = read(file)[0], separate(vocals, mixture)[0]
    assert stem.shape == mixture.shape
    error = {"wav16": 2**-15, "wav24": 2**-23, "wav32f": 1e-7, "flac": 2**-23}.get(format)
    if error is not None:
        np.testing.assert_allclose(stem, expected, rtol=0, atol=error + 2e-7)


def test_clipping_is_handled_by_choice_and_reported(vocals, tmp_path):
    loud = 20 * music(0.5)
    path = save(tmp_path / "loud.wav", loud)
    expected = separate(vocals, loud)[0]
    beyond = int(np.count_nonzero(np.abs(expected) > 1))
    assert beyond

    def stem_and_report(clipping: str) -> tuple[np.ndarray, Report]:
        folder = tmp_path / clipping
        report = run_one(vocals, path, folder, format="wav32f", clipping=clipping)
        return soundfile.read(folder / "loud/vocals.wav", dtype="float32")[0].T, report

    stem, report = stem_and_report("none")
    np.testing.assert_allclose(stem, expected, rtol=1e-5, atol=1e-5)
    assert (report.clipped, report.gain) == ({"vocals": beyond}, 1.0)
    stem, report = stem_and_report("clamp")
    np.testing.assert_allclose(stem, expected.clip(-1, 1), rtol=1e-5, atol=1e-5)
    assert (report.clipped, report.gain) == ({"vocals": beyond}, 1.0)
    stem, report = stem_and_report("rescale")
    assert report.clipped == {"vocals": beyond}
    assert math.isclose(report.gain, 1 / np.abs(expected).max(), rel_tol=1e-5)
    np.testing.assert_allclose(stem, expected * report.gain, rtol=1e-5, atol=1e-5)


def test_existing_stems_are_kept_and_missing_ones_made(joint, tmp_path):
    path = save(tmp_path / "music.wav", music(0.3))
    run_one(joint, path, tmp_path, clipping="clamp")
    folder = tmp_path / "music"
    assert names(folder) == ["bass.wav", "drums.wav", "other.wav"]
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    drums = soundfile.read(folder / "drums.wav")[0]

    (folder / "drums.wav").unlink()
    (folder / "bass.wav").write_bytes(b"mine")
    run_one(joint, path, tmp_path, clipping="clamp")
    np.testing.assert_allclose(soundfile.read(folder / "drums.wav")[0], drums, rtol=0, atol=2**-15)
    assert (folder / "bass.wav").read_bytes() == b"mine"

    assert run_one(joint, path, tmp_path, clipping="clamp").kept
    assert not run_one(joint, path, tmp_path, clipping="clamp", overwrite=True).kept
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == whole


# folders and names


def test_folders_are_searched_and_mirrored(vocals, tmp_path):
    for name in ("album/one.wav", "album/disc 2/one.wav", "album/disc 2/two.flac", "album/notes.txt"):
        if name.endswith("txt"):
            (tmp_path / name).write_text("no music")
        else:
            save(tmp_path / name, music(0.1), subtype="PCM_16")
    reports = run(vocals, [tmp_path / "album"], tmp_path / "out")
    assert [report.error for report in reports] == [None] * 3
    files = [name for name in names(tmp_path / "out") if name.endswith(".wav")]
    assert files == ["disc 2/one/vocals.wav", "disc 2/two/vocals.wav", "one/vocals.wav"]


def test_names_that_collide_keep_their_extension(tmp_path):
    for name in ("song.wav", "song.flac", "other.wav"):
        save(tmp_path / name, music(0.1), subtype="PCM_16")
    tracks, missing = find_tracks([tmp_path], tmp_path / "out")
    assert {str(folder): path.name for folder, path in tracks.items()} == {
        "song.wav": "song.wav",
        "song.flac": "song.flac",
        "other": "other.wav",
    }
    assert not missing


def test_a_file_given_twice_is_separated_once(tmp_path):
    path = save(tmp_path / "song.wav", music(0.1))
    assert list(find_tracks([path, tmp_path, path], tmp_path / "out")[0]) == [Path("song")]


def test_files_for_one_folder_are_refused_by_name(tmp_path):
    for folder in ("a", "b"):
        save(tmp_path / folder / "song.wav", music(0.1))
    with pytest.raises(InputError, match=r"b/song\.wav and .*a/song\.wav would both be written to the folder song"):
        find_tracks([tmp_path / "a", tmp_path / "b"], tmp_path / "out")


def test_an_output_within_the_input_is_no_input(vocals, tmp_path):
    save(tmp_path / "song.wav", music(0.1))
    assert len(run(vocals, [tmp_path], tmp_path / "stems")) == 1
    [report] = run(vocals, [tmp_path], tmp_path / "stems")
    assert report.kept
    (tmp_path / "song.wav").unlink()
    [report] = run(vocals, [tmp_path], tmp_path / "stems")
    assert "no audio files but those in the output" in report.error


# what is refused


def damaged(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files that cannot be separated, and what is said of each."""
    good = save(folder / "good.wav", music(0.5), subtype="PCM_16").read_bytes()

    def file(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    yield folder / "missing.wav", "does not exist"
    yield file("empty.wav", b""), "is empty"
    yield file("truncated.wav", good[: len(good) // 2]), "cut short"
    yield file("text.wav", b"no music here\n" * 100), "is not audio"
    yield file("noise.mp3", np.random.default_rng(0).bytes(9999)), "is not audio"
    yield save(folder / "none.wav", np.zeros((2, 0), np.float32)), "holds no sound"
    spoilt = music(0.5)
    spoilt[0, 4410] = np.nan
    yield save(folder / "nan.wav", spoilt), "NaN or infinite samples, the first at 0.100 s"
    spoilt[0, 4410] = np.inf
    yield save(folder / "inf.wav", spoilt), "NaN or infinite samples, the first at 0.100 s"
    yield save(folder / "surround.wav", music(0.1, channels=6)), "6 channels"
    (folder / "bare").mkdir()
    yield folder / "bare", "no audio files"
    silent_film = write_with_ffmpeg(folder / "cut.m4a", music(2.0), FFMPEG_FORMATS["m4a"])
    yield file("cut.m4a", silent_film.read_bytes()[:9000]), "cut short"


def test_bad_files_are_named_and_the_others_done(vocals, tmp_path):
    bad = dict(damaged(tmp_path))
    second = write_with_soundfile(tmp_path / "zebra.flac", music(0.3))
    reports = run(vocals, [*bad, tmp_path / "good.wav", second], tmp_path / "out")
    assert {report.path for report in reports if report.error is None} == {tmp_path / "good.wav", second}
    for report in reports:
        if report.error is not None:
            assert bad[report.path] in report.error
            assert str(report.path) in report.error
            assert "; " in report.error  # what to do
            assert "\n" not in report.error
    assert len(reports) == len(bad) + 2
    assert names(tmp_path / "out") == ["good", "good/vocals.wav", "zebra", "zebra/vocals.wav"]


def test_an_output_that_is_a_link_to_itself_is_an_error(vocals, tmp_path):
    path = save(tmp_path / "music.wav", music(0.1))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    [report] = run(vocals, [path], tmp_path / "loop")
    assert f"{tmp_path / 'loop'} cannot be made" in report.error


def test_an_existing_stem_survives_a_failed_overwrite(vocals, tmp_path):
    mixture = music(3.0)
    path = save(tmp_path / "music.wav", mixture)
    run_one(vocals, path, tmp_path / "out")
    stem = (tmp_path / "out/music/vocals.wav").read_bytes()
    mixture[0, -1] = np.nan
    save(path, mixture)
    [report] = run(vocals, [path], tmp_path / "out", overwrite=True)
    assert "NaN" in report.error
    assert (tmp_path / "out/music/vocals.wav").read_bytes() == stem
    assert names(tmp_path / "out") == ["music", "music/vocals.wav"]


def test_an_input_is_not_replaced_by_its_own_stem(vocals, tmp_path):
    path = save(tmp_path / "vocals/vocals.wav", music(0.1))
    content = path.read_bytes()
    [report] = run(vocals, [path], tmp_path, overwrite=True)
    assert "replaced by its own stem" in report.error
    assert path.read_bytes() == content


def test_a_file_in_the_place_of_the_output_folder_is_an_error(vocals, tmp_path):
    path = save(tmp_path / "music.wav", music(0.1))
    (tmp_path / "out").write_text("a file")
    [report] = run(vocals, [path], tmp_path / "out")
    assert str(tmp_path / "out") in report.error
    assert (tmp_path / "out").read_text() == "a file"


def test_a_folder_in_the_place_of_a_stem_is_an_error(vocals, tmp_path):
    path = save(tmp_path / "music.wav", music(0.1))
    (tmp_path / "out/music/vocals.wav").mkdir(parents=True)
    [report] = run(vocals, [path], tmp_path / "out", overwrite=True)
    assert "vocals.wav' cannot be written: Is a directory" in report.error


def test_a_path_longer_than_the_system_takes_is_an_error(vocals, tmp_path):
    path = save(tmp_path / "music.wav", music(0.1))
    [report] = run(vocals, [path], tmp_path / ("x" * 300))
    assert "File name too long" in report.error


def test_mp3_of_an_impossible_rate_is_refused_before_any_work(vocals, tmp_path):
    path = save(tmp_path / "music.wav", music(0.1, 96000), 96000)
    [report] = run(vocals, [path], tmp_path / "out", format="mp3")
    assert "MP3 has no sample rate of 96000 Hz" in report.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"format": "wav61"}, r"no format 'wav61'; did you mean 'wav16'\?"),
        ({"clipping": "clam"}, r"no clipping 'clam'; did you mean 'clamp'\?"),
        ({"clipping": "none"}, "needs the format 'wav32f', not 'wav16'"),
    ],
)
def test_impossible_outputs_are_refused(tmp_path, choice, message):
    with pytest.raises(InputError, match=message):
        Output(tmp_path, **choice)


def test_windows_that_no_memory_holds_are_refused(vocals, tmp_path):
    path = save(tmp_path / "music.wav", music(0.1))
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (64 << 30, limits[1]))
    try:
        reports = separate_files(
            vocals, [path], vocals.sources, Output(tmp_path / "out"), options=Options(600.0, batch_size=1024)
        )
        [report] = reports
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert "does not hold 1024 windows of 600.5 s at once; choose a smaller" in report.error
    assert not (tmp_path / "out").exists()


def test_a_stem_and_the_rest_are_never_of_two_runs(vocals, tmp_path):
    path = save(tmp_path / "music.wav", music(0.3))
    run_one(vocals, path, tmp_path)
    before = (tmp_path / "music" / "vocals.wav").read_bytes()
    [report] = run(vocals, [path], tmp_path, residual="no_vocals")
    assert "its stem vocals exists already" in report.error
    assert names(tmp_path / "music") == ["vocals.wav"]
    assert (tmp_path / "music" / "vocals.wav").read_bytes() == before


@pytest.mark.parametrize("name", ["..wav", "...wav"])
def test_no_file_name_leads_out_of_the_output(vocals, tmp_path, name):
    inside = tmp_path / "in"
    inside.mkdir()
    path = (
        save(inside / name, music(0.1)) if name != "..wav" else save(inside / "x.wav", music(0.1)).rename(inside / name)
    )
    output = tmp_path / "a" / "out"
    [report] = run(vocals, [path], output)
    assert report.error is None
    assert [file.relative_to(output).as_posix() for file in tmp_path.glob("a/**/vocals.wav")] == [f"{name}/vocals.wav"]
