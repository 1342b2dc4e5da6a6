"""The table of formats, and reading and writing by it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from lorat_plugin.errors import InputError
from lorat_plugin.files import read_plain_text, whole_file, whole_folder
from lorat_plugin.interchange.cvat import read_cvat, write_cvat
from lorat_plugin.interchange.json_formats import read_coco, read_label_studio, write_coco, write_label_studio
from lorat_plugin.interchange.text import (
    is_yolo,
    read_got10k,
    read_json_lines,
    read_mot,
    read_yolo,
    write_got10k,
    write_mot,
    write_yolo,
)
from lorat_plugin.interchange.tracks import Tracks, VideoInfo, read_json


class TrackFormat(NamedTuple):
    """How tracks are written and read, and the name that their file (a folder, if without suffix) gets."""

    file_name: str
    write: Callable[[Tracks, Path], None]
    read: Callable[[Path, VideoInfo], Tracks]


FORMATS = {
    "mot": TrackFormat("track_mot.txt", write_mot, read_mot),
    "coco": TrackFormat("track_coco.json", write_coco, read_coco),
    "cvat": TrackFormat("track_cvat.xml", write_cvat, read_cvat),
    "labelstudio": TrackFormat("track_labelstudio.json", write_label_studio, read_label_studio),
    "yolo": TrackFormat("track_yolo", write_yolo, read_yolo),
    "got10k": TrackFormat("track_got10k", write_got10k, read_got10k),
}


def write_tracks(tracks: Tracks, path: Path, format: str) -> None:
    """Write tracks to a file, for "yolo" a folder; it appears whole or not at all.

    Raises InputError for an unknown format, or a place where nothing can be written.
    """
    chosen = check_format(format)
    with (whole_file if Path(chosen.file_name).suffix else whole_folder)(path) as part:
        chosen.write(tracks, part)


def read_tracks(path: Path, video: VideoInfo) -> Tracks:
    """Read tracks, or a few boxes drawn by hand, of a video in any of the formats, found by name and content.

    Also reads track.jsonl. Raises InputError for a file that is none of them or does not fit the video.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        read = read_yolo if is_yolo(path) else read_got10k
    elif suffix == ".json":
        content = read_json(path)
        is_task = isinstance(content, dict) and "data" in content
        read = read_label_studio if is_task or isinstance(content, list) else read_coco
    elif suffix == ".txt":
        first = read_plain_text(path).lstrip().partition("\n")[0]
        read = read_mot if first.count(",") >= 5 else read_got10k
    elif suffix in (".xml", ".jsonl"):
        read = read_cvat if suffix == ".xml" else read_json_lines
    else:
        raise InputError(
            f"{path}: is no file of tracks: give .txt, .json, .jsonl, .xml, or a folder of texts; unpack archives"
        )
    tracks = read(path, video)
    if not tracks.rows:
        raise InputError(f"{path}: holds no box")
    return tracks


def track_paths(folder: Path, formats: Iterable[str]) -> dict[str, Path]:
    """Where tracks go in a folder, by format.

    Raises InputError for an unknown format, or a folder in the way that holds more than an earlier run left.
    """
    paths = {name: folder / check_format(name).file_name for name in formats}
    for path in paths.values():
        if path.exists() and path not in former_tracks(folder):
            raise InputError(f"{path}: is not of an earlier run; move it away or choose another output folder")
    return paths


def former_tracks(folder: Path) -> list[Path]:
    """What an earlier run wrote in a folder: files by their names, folders if only texts are in them."""
    paths = [folder / format.file_name for format in FORMATS.values()]
    texts = (".txt", ".yaml")
    return [
        path
        for path in paths
        if path.is_file() or (path.is_dir() and all(p.suffix in texts for p in path.rglob("*") if not p.is_dir()))
    ]


def check_format(name: str) -> TrackFormat:
    """The format of a name. Raises InputError for an unknown one."""
    if name not in FORMATS:
        raise InputError(f"format '{name}' is unknown; there are {', '.join(FORMATS)}")
    return FORMATS[name]
