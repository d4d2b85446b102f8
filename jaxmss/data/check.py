"""Listen through a data set before it is trained on. Nothing here imports JAX.

Every track is read once, in blocks, all its stems side by side; tracks are read in several threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np

from jaxmss.audio.reading import open_audio
from jaxmss.data import prepared
from jaxmss.data.clips import FULL_SCALE, Clip
from jaxmss.data.listening import MixtureScan, Problem, StemScan
from jaxmss.data.pools import recordings
from jaxmss.data.splits import SPLITS, validation_names
from jaxmss.data.tracks import MIXTURE, STEM_FILE, STEMS, STREAMS, Waveform, decode_stream, some
from jaxmss.errors import InputError

RATE, CHANNELS = 44100, 2  # of the published networks
TRAINING = ("train", "valid")  # where stems may have folders of their own
EXAMPLE = 3  # seconds, in their recipes
BLOCK = 1 << 17  # samples

Blocks = Iterator[tuple[Waveform, int]]  # (c, t) and the rate, from start to end; raises AudioError for a damaged file


@dataclass(frozen=True)
class Source:
    """A track: its stems, each read in blocks when it is called.

    Attributes:
      name: of the track.
      stems: by their names.
      lossy: whether they were coded so.
      complete: whether it has all stems that it should have, whatever others have.
    """

    name: str
    stems: Mapping[str, Callable[[], Blocks]]
    lossy: bool = False
    complete: bool = False


@dataclass(frozen=True)
class Report:
    """What was found at one place: a track, a split, or two tracks that are alike.

    Attributes:
      where: the place.
      problems: none, if all is well.
      tracks: how many tracks were read for it, 0 or 1.
      seconds: of audio that they last.
    """

    where: str
    problems: Sequence[Problem]
    tracks: int = 0
    seconds: float = 0.0


def find(root: Path | str, splits: Iterable[str] = (), folders: Sequence[str] = ()) -> dict[str, list[Source]]:
    """Return the tracks of each split: of these, or of ``train``, ``valid`` and ``test`` as far as they are there.

    If stems have `folders` of their own, each recording is a track of one stem. Raises `InputError` where there is no
    such folder.
    """
    if prepared.is_prepared(root):
        if folders:
            raise InputError(f"{str(root)!r} is a prepared data set, whose stems have no folders; leave folders out")
        names = list(splits) or prepared.splits(root)
        for name in names:
            prepared.require_whole(root, name)
        return {
            name: [_prepared_source(song.name, song.clips) for song in prepared.songs(root, name)] for name in names
        }
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"There is no directory {str(root)!r}; name the folder that holds the splits")
    there = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    names = list(splits) or [name for name in (TRAINING if folders else SPLITS) if name in there]
    missing = [name for name in names if name not in there]
    if missing or not names:
        wanted = f"no split {missing[0]!r}" if missing else f"none of the splits {', '.join(SPLITS)}"
        raise InputError(f"{str(root)!r} holds {wanted}: it holds {', '.join(there) or 'no folders'}")
    if folders:
        return {name: list(_recordings(root / name, folders)) for name in names}
    return {name: list(_sources(root / name)) for name in names}


def absent(splits: Mapping[str, Sequence[Source]]) -> Iterator[Report]:
    """Yield a report for the split, ``train`` or ``valid``, without which a recipe cannot be trained as it is."""
    if "train" not in splits:
        yield Report("train", [Problem("there is no such split; nothing can be trained", is_error=False)])
    elif "valid" not in splits and not any(source.name in validation_names() for source in splits["train"]):
        text = "there is no such split, nor are MUSDB18's validation tracks in train; add it, or train with "
        yield Report("valid", [Problem(f"{text}--validation.every 0", is_error=False)])


def check(splits: Mapping[str, Sequence[Source]], threads: int | None = None) -> Iterator[Report]:
    """Read all tracks; yield a report for every one in their order, then for empty splits and tracks that are alike.

    `threads` are one for each core by default.
    """
    places = [(f"{split}/{source.name}", source) for split, sources in splits.items() for source in sources]
    expected = _expected(source for _, source in places)
    audio: dict[bytes, tuple[str, str]] = {}  # where a recording was heard first, and as which stem
    alike: dict[tuple[str, str], list[str]] = {}
    pool = ThreadPoolExecutor(threads or os.cpu_count())
    try:
        for place, (report, heard) in zip(places, pool.map(partial(_listen, expected), places), strict=True):
            yield report
            for stem, digest in heard.items():
                where, first = audio.setdefault(digest, (place[0], stem))
                if (where, first) != (place[0], stem):
                    alike.setdefault((where, place[0]), []).append(stem if stem == first else f"{first} as {stem}")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    for split, sources in splits.items():
        if not sources:
            yield Report(split, [Problem("holds no tracks; copy them there or remove the folder")])
    yield from _repeated(alike, splits)


def _listen(expected: Sequence[str], place: tuple[str, Source]) -> tuple[Report, dict[str, bytes]]:
    """Return what is wrong with a track, and a digest of every stem that can be heard."""
    where, source = place
    problems = []
    missing = [] if source.complete else [stem for stem in expected if stem not in source.stems]
    if missing:
        holds = some(list(source.stems), "no .wav files")
        text = f"lacks {some(missing, '')}: it holds {holds}; complete it or leave it out"
        if source.stems and not {MIXTURE, *STEMS} & source.stems.keys():
            text += ", or name the folders by --folders if they are stems, each full of recordings"
        problems.append(Problem(text, is_error=missing != [MIXTURE]))  # training adds its stems up
    scans = {stem: StemScan() for stem in source.stems}
    stems = [_whole_blocks(blocks(), scans[stem], problems) for stem, blocks in source.stems.items()]
    difference = MixtureScan()
    for parts in zip_longest(*stems):
        at = dict(zip(scans, parts, strict=True))
        mixture = at.pop(MIXTURE, None)
        if mixture is not None and at and all(part is not None and part.shape == mixture.shape for part in at.values()):
            difference.add(mixture, np.add.reduce(list(at.values())))
    whole = {stem: scan for stem, scan in scans.items() if scan.whole}
    problems += _unlike(whole)
    for stem, scan in whole.items():
        problems += scan.problems(stem)
    if len(whole) == len(scans) and MIXTURE in whole and not missing:
        problems += difference.problems(whole[MIXTURE].rate, source.lossy)
    seconds = max((scan.samples / scan.rate for scan in whole.values()), default=0.0)
    if whole and seconds < EXAMPLE and _split(where) == "train":
        text = f"lasts {seconds:.2f} s, an example {EXAMPLE} s; leave it out, or train with a lower --data.seconds"
        problems.append(Problem(text, is_error=False))
    heard = {stem: scan.digest.digest() for stem, scan in whole.items() if not scan.is_silent}
    return Report(where, problems, 1, seconds), heard


def _whole_blocks(blocks: Blocks, scan: StemScan, problems: list[Problem]) -> Iterator[Waveform]:
    """Yield a stem in blocks of one size but the last, however they come; note what is wrong with the file."""
    held: list[Waveform] = []
    try:
        for block, rate in blocks:
            scan.add(block, rate)
            held.append(block)
            if sum(part.shape[1] for part in held) >= BLOCK:
                joined = np.concatenate(held, axis=1)
                yield joined[:, :BLOCK]
                held = [joined[:, BLOCK:]]
        scan.whole = True
    except InputError as error:
        if (problem := Problem(str(error))) not in problems:  # one file may hold all stems
            problems.append(problem)
        return
    if any(part.size for part in held):
        yield np.concatenate(held, axis=1)


def _unlike(scans: Mapping[str, StemScan]) -> Iterator[Problem]:
    """Tell which stems differ in their form from the first, and which have another than networks are trained on."""
    forms = {stem: (scan.rate, scan.channels, scan.samples) for stem, scan in scans.items()}
    for stem, form in forms.items():
        first = next(iter(forms))
        if form != forms[first]:
            described = [
                f"{one} has {c} channels of {t} samples at {r} Hz"
                for one, (r, c, t) in ((stem, form), (first, forms[first]))
            ]
            yield Problem(f"{', '.join(described)}; the stems of a track must be alike")
    for rate in {scan.rate for scan in scans.values()} - {RATE}:
        stems = ", ".join(stem for stem, scan in scans.items() if scan.rate == rate)
        yield Problem(f"{stems}: {rate} Hz; resample to {RATE} Hz")
    if mono := [stem for stem, scan in scans.items() if scan.channels < CHANNELS]:
        yield Problem(f"{', '.join(mono)}: mono; convert to {CHANNELS} channels")


def _expected(sources: Iterable[Source]) -> list[str]:
    """Return the stems that every track should have: those that any has, and MUSDB18's if it is like that."""
    found = dict.fromkeys(stem for source in sources for stem in source.stems)
    musdb = STEMS if len(found.keys() & set(STEMS)) > 1 else ()
    return list(dict.fromkeys((*found, *musdb)))


def _repeated(
    alike: Mapping[tuple[str, str], Sequence[str]], splits: Mapping[str, Sequence[Source]]
) -> Iterator[Report]:
    """Yield a report for each two tracks, or stems of a track, that hold the same audio, or whole songs of one name."""
    for (first, second), stems in alike.items():
        if first == second:
            text, leaks = f"the same audio is there twice: {some(stems, '')}", False
        else:
            leaks = _split(first) != _split(second)
            text = f"the same audio as in {first}: {some(stems, '')}; leave one of them out"
        yield Report(second, [Problem(text, is_error=leaks)])
    names: dict[str, str] = {}
    for split, sources in splits.items():
        for source in sources:
            where = f"{split}/{source.name}"
            first = names.setdefault(source.name.casefold(), where)
            if _split(first) != split and (first, where) not in alike and not source.complete:
                text = f"the same name as {first}, but other audio; leave one out if it is the same song"
                yield Report(where, [Problem(text, is_error=False)])


def _split(where: str) -> str:
    return where.partition("/")[0]


def _sources(folder: Path) -> Iterator[Source]:
    """Yield what a folder holds, also folders without a stem."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            files = sorted(path.glob("[!.]*.wav"))
            yield Source(path.name, {file.stem: partial(_file_blocks, file) for file in files})
        elif path.name.endswith(STEM_FILE):
            streams = {stem: partial(decode_stream, path, index) for index, stem in enumerate(STREAMS)}
            yield Source(path.name.removesuffix(STEM_FILE), streams, lossy=True)


def _recordings(folder: Path, stems: Sequence[str]) -> Iterator[Source]:
    """Yield the recordings of stems that have folders of their own."""
    for stem, files in recordings(folder, stems).items():
        for file in files:
            yield Source(f"{stem}/{file.stem}", {stem: partial(_file_blocks, file)}, complete=True)


def _prepared_source(name: str, clips: Mapping[str, Clip]) -> Source:
    return Source(name, {stem: partial(_clip_blocks, clip) for stem, clip in clips.items()})


def _file_blocks(path: Path) -> Blocks:
    with open_audio(path) as reader:
        for block in reader.blocks(BLOCK):
            yield block, reader.sample_rate


def _clip_blocks(clip: Clip) -> Blocks:
    for start in range(0, clip.samples, BLOCK):
        pcm = clip.read(start, min(BLOCK, clip.samples - start))
        yield pcm.T.astype(np.float32) / FULL_SCALE, clip.rate
