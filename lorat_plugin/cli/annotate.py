"""`lorat annotate`: boxes for every frame of a video from a few drawn by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorat_plugin.cli.console import progress, quiet_opencv
from lorat_plugin.cli.options import (
    DEFAULTS,
    TrackFormatOption,
    settings_options,
)
from lorat_plugin.cli.track import check_end
from lorat_plugin.errors import InputError
from lorat_plugin.settings import TrackerSettings

if TYPE_CHECKING:
    from lorat_plugin.interchange import Tracks
    from lorat_plugin.tracker import MultiObjectTracker


@settings_options(absent_below=None)
def annotate_command(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Video or folder of frames.")],
    labels: Annotated[
        Path, typer.Option("--labels", help="Boxes in some frames: a file of any format, or track.jsonl.")
    ],
    formats: TrackFormatOption = None,
    settings: TrackerSettings = DEFAULTS,
    start: Annotated[int, typer.Option("--start", help="First frame to fill in, 0-based.")] = 0,
    end: Annotated[int | None, typer.Option("--end", help="Frame to stop before (exclusive).")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder for the results; lorat_annotate/NAME_OF_SOURCE if left out.")
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Write video.mp4 with the boxes drawn.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Fill in the boxes between those that were drawn by hand.

    Example: lorat annotate video.mp4 --labels boxes.xml --format cvat --format coco

    Tracks each object from its hand boxes forwards and backwards and blends
    what was found. Hand boxes stay as they are; an object that is marked as
    gone (CVAT's outside) has no box until its next one. Writes CVAT's XML if no
    --format is named.
    """
    from lorat_plugin.interchange.formats import track_paths
    from lorat_plugin.tracker import MultiObjectTracker

    path = Path(source).expanduser()
    if not path.is_file() and not path.is_dir():
        if path.exists() or source.isdecimal() or "://" in source:
            raise InputError("a camera or stream cannot be annotated, as its frames come only once; record it first")
        raise InputError(f"{source}: no such video or folder of frames")
    folder = Path("lorat_annotate") / path.resolve().stem if output is None else output
    paths = track_paths(folder, formats or ["cvat"])
    video_path = folder / "video.mp4" if save else None
    for file in (*paths.values(), *([video_path] if video_path else [])):
        if any(file.exists() and given.exists() and file.samefile(given) for given in (labels, path)):
            raise InputError(f"{file}: would be overwritten; choose another folder with --output")
    quiet_opencv()
    keys, frames = _hand_boxes(path, labels, start, end)
    tracker = settings.load(MultiObjectTracker)
    tracks = _annotate(path, keys, frames, tracker)
    _write(path, tracks, folder, paths, video_path)
    files = [str(file) for file in (*paths.values(), video_path) if file]
    drawn = sum(row.frame in frames for row in keys.rows)
    boxes, objects = len(tracks.rows), len(tracks.objects())
    if as_json:
        typer.echo(json.dumps({"drawn": drawn, "boxes": boxes, "objects": objects, "files": files}))
    else:
        typer.echo(f"{boxes} boxes of {objects} objects from {drawn} drawn ones in {len(frames)} frames")
        for name in files:
            typer.echo(name)


def _hand_boxes(source: Path, labels: Path, start: int, end: int | None) -> tuple[Tracks, range]:
    """The boxes that a person drew, and the frames that are wanted. The video is read once, up to `end`, for its size.

    Boxes beyond `end` may be there: they are not looked at.
    """
    from lorat_plugin.interchange import read_tracks
    from lorat_plugin.interchange.tracks import UNBOUNDED
    from lorat_plugin.tracking import check_box
    from lorat_plugin.video.outputs import TrackFiles
    from lorat_plugin.video.source import list_images, open_source

    with open_source(source, 0, end) as frames:
        about = TrackFiles({}, frames.name, frames.fps)
        for frame in frames:
            about.write(frame, {}, 0.0)
        about.fps = frames.mean_fps or about.fps  # known when all is read
        check_end(frames, frame)
    video = about.tracks().video
    wanted = range(start, video.frames.stop)
    if not wanted or start < 0:
        raise InputError(f"--start {start}: {source} is read up to frame {video.frames.stop - 1}; start before that")
    whole_video = video
    if source.is_dir():
        names = tuple(path.name for path in list_images(source))
        whole_video = video._replace(frames=range(len(names)), file_names=names)
    elif video.frames.stop == end:  # there may be more frames
        whole_video = video._replace(frames=UNBOUNDED)
    given = read_tracks(labels, whole_video)
    keys = replace(given, video=video, rows=tuple(row for row in given.rows if row.key and row.frame in video.frames))
    for row in keys.rows:
        try:
            check_box(row.box, (video.height, video.width))
        except InputError as error:
            raise InputError(f"{labels}: frame {row.frame} (counted from 0), object {row.id}: {error}") from error
    if not any(row.frame in wanted for row in keys.rows):
        raise InputError(f"{labels}: no box is drawn in frames {start} to {wanted[-1]} of {video.name}")
    return keys, wanted


def _annotate(source: Path, keys: Tracks, frames: range, tracker: MultiObjectTracker) -> Tracks:
    from lorat_plugin.apps.annotate import annotate_object, spans_seen
    from lorat_plugin.interchange import Tracks
    from lorat_plugin.video.source import open_source

    spans = {
        number: spans_seen(frames, drawn, [frame for frame, who in keys.gone if who == number])
        for number, drawn in keys.objects().items()
    }
    with progress("tracking", sum(len(span) for found in spans.values() for span in found)) as advance:
        rows = [
            row
            for number, drawn in keys.objects().items()
            for row in annotate_object(partial(open_source, source), spans[number], drawn, tracker, advance)
        ]
    names = keys.video.file_names[frames.start :]
    return Tracks.checked(keys.video._replace(frames=frames, file_names=names), rows, str(source))


def _write(source: Path, tracks: Tracks, folder: Path, paths: dict[str, Path], video_path: Path | None) -> None:
    import numpy as np

    from lorat_plugin.interchange import write_tracks
    from lorat_plugin.tracking import TrackResult
    from lorat_plugin.video.outputs import AnnotatedVideo, output_folder
    from lorat_plugin.video.source import open_source

    with output_folder(folder):
        for name, path in paths.items():
            write_tracks(tracks, path, name)
        if video_path is not None:
            results: dict[int, dict[int, TrackResult]] = {}
            for row in tracks.rows:
                results.setdefault(row.frame, {})[row.id] = TrackResult(np.array(row.box), row.score)
            span = tracks.video.frames
            with open_source(source, span.start, span.stop) as frames, AnnotatedVideo(video_path, frames.fps) as video:
                for frame in frames:
                    video.write(frame, results.get(frame.number, {}), 0.0)
