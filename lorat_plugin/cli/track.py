"""`lorat track`, `lorat annotate`, `lorat app`: follow objects through a video, fill in hand boxes, serve the page."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from lorat_plugin.cli import options
from lorat_plugin.errors import InputError
from lorat_plugin.settings import TrackerSettings

if TYPE_CHECKING:
    import numpy as np

    from lorat_plugin.tracker import MultiObjectTracker, TrackResult
    from lorat_plugin.video.masks import MaskMaker
    from lorat_plugin.video.source import Frame, FrameSource


class Summary(NamedTuple):
    """What `lorat track` did; printed by --json."""

    frames: int
    frames_per_second: float  # tracking and masks; decoding and writing not counted
    objects: list[int]
    files: list[str]
    interrupted: bool
    closed: bool  # a live source ended by itself


@options.settings_options(absent_below=None)
def track_command(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Video, folder of frames, img_%04d.png, camera index or stream URL.")
    ],
    box: Annotated[
        list[str] | None,
        typer.Option("--box", metavar="X,Y,W,H", help="Object in the first frame; repeat for several."),
    ] = None,
    select: Annotated[bool, typer.Option("--select", help="Draw the boxes with the mouse instead.")] = False,
    settings: TrackerSettings = options.DEFAULTS,
    start: Annotated[int, typer.Option("--start", help="First frame, 0-based; --box is meant for it.")] = 0,
    end: Annotated[int | None, typer.Option("--end", help="Frame to stop before (exclusive).")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder for the results; lorat_track/NAME_OF_SOURCE if left out.")
    ] = None,
    formats: options.TrackFormatOption = None,
    masks: options.MasksOption = None,
    save: Annotated[bool, typer.Option("--save", help="Write video.mp4 with the boxes drawn.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Show the frames while tracking; q stops.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Track one or several objects through a video.

    Example: lorat track video.mp4 --box 120,80,64,48 --save

    Boxes are x,y,w,h in pixels, 0-based from the top left corner. Writes
    boxes.txt (GOT-10k text, a row a frame; boxes_ID.txt for each of several
    objects) and track.jsonl (frame, id, box_xywh, score, absent, status, time_ms); with
    --format also track_NAME in other tools' formats; with --masks also
    masks/000012.png, a picture a frame (masks_ID/ for each of several
    objects). Ctrl-C stops and keeps what is done; so does the end of a camera or
    stream, with exit code 3. For a damaged frame boxes.txt repeats the last box.
    """
    boxes = [options.parse_box(text) for text in box or []]
    if bool(boxes) == select:
        raise InputError("say where the object is in the first frame: either --box X,Y,W,H or --select, not both")
    options.quiet_opencv()
    from lorat_plugin.interchange.formats import track_paths
    from lorat_plugin.video.outputs import require_display, select_boxes
    from lorat_plugin.video.source import open_source

    if show or select:
        require_display()
    with open_source(source, start, end) as frames:
        from lorat_plugin.tracker import MultiObjectTracker
        from lorat_plugin.video.masks import mask_maker

        folder = Path("lorat_track") / frames.name if output is None else output
        _spare_source(source, folder, save)
        paths = track_paths(folder, formats or ())
        tracker = settings.load(MultiObjectTracker)
        maker = None if masks is None else mask_maker(masks, settings.device)
        summary = _track(tracker, frames, boxes or select_boxes, folder, paths, save, show, maker)
    if as_json:
        typer.echo(json.dumps(summary._asdict()))
    else:
        typer.echo(f"{summary.frames} frames, {summary.frames_per_second:.1f} frames/s while tracking")
        for path in summary.files:
            typer.echo(path)
    if summary.interrupted or summary.closed:
        raise typer.Exit(130 if summary.interrupted else 3)


def _track(
    tracker: MultiObjectTracker,
    source: FrameSource,
    boxes: Sequence[options.Box] | Callable[[np.ndarray], Sequence[options.Box]],
    folder: Path,
    paths: Mapping[str, Path],
    save: bool,
    show: bool,
    maker: MaskMaker | None,
) -> Summary:
    """Follow `boxes` (or what the callable picks in the first frame) to the end of the source and write the results."""
    import numpy as np

    from lorat_plugin.interchange.formats import former_tracks
    from lorat_plugin.tracker import TrackResult
    from lorat_plugin.video.outputs import Window, former_masks, output_folder, result_outputs

    frames = iter(source)
    frame = _first(source, frames)
    given = boxes(frame.image) if callable(boxes) else boxes
    began = time.perf_counter()
    try:
        ids = tracker.add(frame.image, given)
    except InputError as error:
        raise InputError(f"frame {frame.number} ({frame.origin}): {error}") from error
    results = {number: TrackResult(np.asarray(box), 1.0) for number, box in zip(ids, given, strict=True)}
    masks = _object_masks(maker, frame.image, results)
    seconds = time.perf_counter() - began
    done, spent = 0, 0.0
    with contextlib.ExitStack() as stack:
        stopped = stack.enter_context(_stopped_by_signal(source))
        stack.enter_context(output_folder(folder))
        former_runs = former_masks(folder)  # before this run's track.jsonl makes any such folder look like one
        files, outputs = result_outputs(
            folder, ids, source.name, source.fps, paths, masks=maker is not None, video=save
        )
        if show:
            outputs.append(Window(source.stop))
        for output in outputs:
            stack.enter_context(output)
        advance = stack.enter_context(options.progress("tracking", source.length))
        while True:
            for output in outputs:
                output.write(frame, results, seconds, masks)
            advance()
            done, spent = done + 1, spent + seconds
            try:
                following = next(frames, None)
            except InputError as error:
                raise InputError(f"{error}; --end {frame.number + 1} tracks up to there") from error
            for _ in [] if stopped else _damaged_between(source, frame, following):
                for rows in outputs[: len(ids)]:
                    rows.write(frame, results, 0.0)
            if following is None:
                source.check_end(frame)
                break
            frame = following
            began = time.perf_counter()
            results = tracker.update(frame.image)
            masks = _object_masks(maker, frame.image, results)
            seconds = time.perf_counter() - began
    formers = {*folder.glob("boxes*.txt"), folder / "video.mp4", *former_tracks(folder), *former_runs}
    for former in formers - set(files):  # of an earlier run in this folder: it must not pass for this one's
        if former.is_dir():
            shutil.rmtree(former)
        else:
            former.unlink(missing_ok=True)
    interrupted = bool(stopped) and not source.live  # Ctrl-C is how a camera's track ends
    return Summary(done, done / spent, ids, [str(path) for path in files], interrupted, source.closed)


def _first(source: FrameSource, frames: Iterator[Frame]) -> Frame:
    """The first frame. Raises InputError if there is none, or if it is not the one that the boxes are for."""
    frame = next(frames, None)
    if frame is None:
        raise InputError(f"{source.name}: ended before its first frame; start it again")
    if source.damaged and source.damaged[0] < frame.number:
        raise InputError(
            f"{frame.origin}: frame {source.damaged[0]} is damaged; give the boxes in frame {frame.number}, and"
            f" --start {frame.number}"
        )
    return frame


def _damaged_between(source: FrameSource, frame: Frame, following: Frame | None) -> list[int]:
    """Numbers of the damaged frames behind a frame and before the following one, or the end."""
    end = math.inf if following is None else following.number
    return [number for number in source.damaged if frame.number < number < end]


def _object_masks(
    maker: MaskMaker | None, image: np.ndarray, results: Mapping[int, TrackResult]
) -> dict[int, np.ndarray]:
    """Each object's mask, id -> (H, W) bool, empty for an absent one; no masks without a maker."""
    if maker is None:
        return {}
    import numpy as np

    seen = [number for number, result in results.items() if not result.absent]
    masks = {number: np.zeros(image.shape[:2], bool) for number in results}
    return masks | dict(zip(seen, maker(image, [results[number].box for number in seen]), strict=True))


@contextlib.contextmanager
def _stopped_by_signal(source: FrameSource) -> Iterator[list[int]]:
    """Ctrl-C (or SIGTERM) ends the source after the frame in work, so that files are whole; a second one aborts.

    Yields a list that gets the signal's number.
    """
    caught: list[int] = []

    def stop(number: int, _: object) -> None:
        caught.append(number)
        signal.signal(number, previous[number])
        source.stop()

    previous = {int(number): signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _spare_source(source: str, folder: Path, save: bool) -> None:
    """Raise InputError if the annotated video would replace the source."""
    target = folder / "video.mp4"
    if save and target.exists() and Path(source).exists() and target.samefile(source):
        raise InputError(f"{source}: --save would overwrite it with {target}; choose another folder with --output")


@options.settings_options(absent_below=None)
def annotate_command(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Video or folder of frames.")],
    labels: Annotated[
        Path, typer.Option("--labels", help="Boxes in some frames: a file of any format, or track.jsonl.")
    ],
    formats: options.TrackFormatOption = None,
    settings: TrackerSettings = options.DEFAULTS,
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
    options.quiet_opencv()
    from lorat_plugin.apps.annotate import annotate, read_hand_boxes, write_annotation
    from lorat_plugin.interchange.formats import track_paths
    from lorat_plugin.tracker import MultiObjectTracker
    from lorat_plugin.video.outputs import output_folder

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
    keys, frames = read_hand_boxes(path, labels, start, end)
    tracker = settings.load(MultiObjectTracker)
    tracks = annotate(path, keys, frames, tracker, partial(options.progress, "tracking"))
    with output_folder(folder):
        write_annotation(path, tracks, paths, video_path)
    files = [str(file) for file in (*paths.values(), video_path) if file]
    drawn = sum(row.frame in frames for row in keys.rows)
    boxes, objects = len(tracks.rows), len(tracks.objects())
    if as_json:
        typer.echo(json.dumps({"drawn": drawn, "boxes": boxes, "objects": objects, "files": files}))
    else:
        typer.echo(f"{boxes} boxes of {objects} objects from {drawn} drawn ones in {len(frames)} frames")
        for name in files:
            typer.echo(name)


@options.settings_options(absent_below=None)
def app_command(
    settings: TrackerSettings = options.DEFAULTS,
    host: Annotated[str, typer.Option("--host", help="Address to serve; 0.0.0.0 for the network.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option("--port", help="The first free one from 7860 if left out.")] = None,
    max_frames: Annotated[int, typer.Option("--max-frames", min=1, help="Longer videos are refused.")] = 3000,
    max_megabytes: Annotated[int, typer.Option("--max-megabytes", min=1, help="Larger files are refused.")] = 500,
) -> None:
    """Serve a page to track objects with the mouse; open the address that it prints in a browser.

    Example: lorat app --model lorat_tiny --port 7860

    Only this machine reaches the page unless --host says otherwise; then
    visitors cannot name weights. Uploads and results lie in a temporary
    folder, which Ctrl-C removes. Needs the extra `app`.
    """
    options.quiet_opencv()
    from lorat_plugin.processes import no_proxies

    with no_proxies():
        from lorat_plugin.apps.page import SIGN_SECONDS, PageOptions, served

    settings.check()
    served_as = PageOptions(settings, host, port, max_frames, max_megabytes)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
    with served(served_as) as page, contextlib.suppress(KeyboardInterrupt):
        if not served_as.local:
            typer.echo("Everyone who reaches this machine can use the page, without a password and unencrypted: see who"
                       " that is, or leave out --host", err=True)  # fmt: skip
        typer.echo(f"{page.address} (Ctrl-C ends it)")
        while True:
            time.sleep(SIGN_SECONDS)
            page.sweep()
