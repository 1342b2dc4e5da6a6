"""`lorat annotate`: boxes for every frame of a video from a few drawn by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorat_plugin.cli.options import (
    AbsentOption,
    BackboneOption,
    DeviceOption,
    EngineOption,
    ModelOption,
    PrecisionOption,
    TrackFormatOption,
    WeightsOption,
)
from lorat_plugin.cli.progress import progress
from lorat_plugin.cli.track import quiet_opencv
from lorat_plugin.errors import InputError

if TYPE_CHECKING:
    from lorat_plugin.interchange import Tracks
    from lorat_plugin.tracker import MultiObjectTracker


def annotate_command(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Video or folder of frames.")],
    labels: Annotated[
        Path, typer.Option("--labels", help="Boxes in some frames: a file of any format, or track.jsonl.")
    ],
    formats: TrackFormatOption = None,
    model: ModelOption = "lorat_tiny",
    weights: WeightsOption = None,
    backbone: BackboneOption = None,
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    absent_below: AbsentOption = 0.0,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder for the results; lorat_annotate/NAME_OF_SOURCE if left out.")
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Write video.mp4 with the boxes drawn.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Fill in the boxes between those that were drawn by hand.

    Example: lorat annotate video.mp4 --labels boxes.xml --format cvat --format coco

    Tracks each object from its hand boxes forwards and backwards and blends
    what was found. Hand boxes stay as they are. Writes CVAT's XML if no
    --format is named.
    """
    from lorat_plugin.interchange.formats import track_paths
    from lorat_plugin.tracker import MultiObjectTracker

    if not source.exists():
        raise InputError(f"{source}: no such video or folder of frames")
    folder = Path("lorat_annotate") / source.resolve().stem if output is None else output
    paths = track_paths(folder, formats or ["cvat"])
    video_path = folder / "video.mp4" if save else None
    for path in (*paths.values(), *([video_path] if video_path else [])):
        if any(path.exists() and given.exists() and path.samefile(given) for given in (labels, source)):
            raise InputError(f"{path}: would be overwritten; choose another folder with --output")
    quiet_opencv()
    keys = _hand_boxes(source, labels)
    tracker = MultiObjectTracker.from_pretrained(
        model, weights=weights, backbone=backbone, device=device, engine=engine, precision=precision,
        absent_below=absent_below,
    )  # fmt: skip
    tracks = _annotate(source, keys, tracker)
    _write(source, tracks, folder, paths, video_path)
    files = [str(path) for path in (*paths.values(), video_path) if path]
    drawn, boxes, objects = len(keys.rows), len(tracks.rows), len(tracks.objects())
    if as_json:
        typer.echo(json.dumps({"drawn": drawn, "boxes": boxes, "objects": objects, "files": files}))
    else:
        typer.echo(f"{boxes} boxes of {objects} objects from {drawn} drawn ones in {len(keys.video.frames)} frames")
        for file in files:
            typer.echo(file)


def _hand_boxes(source: Path, labels: Path) -> Tracks:
    """The boxes that a person drew, and what there is to know of the video: it is read once for that."""
    from lorat_plugin.interchange import TrackFiles, read_tracks
    from lorat_plugin.video import open_source

    with open_source(source) as frames:
        about = TrackFiles({}, frames.name, frames.fps)
        for frame in frames:
            about.write(frame, {}, 0.0)
    given = read_tracks(labels, about.tracks().video)
    return replace(given, rows=tuple(row for row in given.rows if row.key))


def _annotate(source: Path, keys: Tracks, tracker: MultiObjectTracker) -> Tracks:
    from lorat_plugin.annotate import annotate_object
    from lorat_plugin.interchange import Tracks
    from lorat_plugin.video import open_source

    objects = keys.objects().values()
    with progress("tracking", len(keys.video.frames) * len(objects)) as advance:
        rows = [
            row for drawn in objects for row in annotate_object(lambda: open_source(source), drawn, tracker, advance)
        ]
    return Tracks.checked(keys.video, rows, str(source))


def _write(source: Path, tracks: Tracks, folder: Path, paths: dict[str, Path], video_path: Path | None) -> None:
    import numpy as np

    from lorat_plugin.interchange import write_tracks
    from lorat_plugin.outputs import AnnotatedVideo, output_folder
    from lorat_plugin.tracking import TrackResult
    from lorat_plugin.video import open_source

    with output_folder(folder):
        for name, path in paths.items():
            write_tracks(tracks, path, name)
        if video_path is not None:
            results: dict[int, dict[int, TrackResult]] = {}
            for row in tracks.rows:
                results.setdefault(row.frame, {})[row.id] = TrackResult(np.array(row.box), row.score)
            with open_source(source) as frames, AnnotatedVideo(video_path, frames.fps) as video:
                for frame in frames:
                    video.write(frame, results.get(frame.number, {}), 0.0)
