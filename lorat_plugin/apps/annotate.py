"""Boxes for every frame from a few drawn by hand: the tracker runs from each to its neighbours, both runs are blended.

The rule is in docs/howto/interchange.md, "Annotate": `blend` weighs a forward and a backward run by distance, score and
arrival, the IoU of a run's last box with the hand box there, after the mean offset at all arrivals is removed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from lorat_plugin.boxes import iou, xywh_to_xyxy
from lorat_plugin.errors import InputError
from lorat_plugin.images import list_images
from lorat_plugin.interchange import Row, Tracks, read_tracks, write_tracks
from lorat_plugin.interchange.tracks import UNBOUNDED
from lorat_plugin.tracker import MultiObjectTracker
from lorat_plugin.tracking import TrackResult, check_box
from lorat_plugin.video.outputs import AnnotatedVideo, TrackFiles
from lorat_plugin.video.source import Frame, FrameSource, open_source, without_gaps

PRIOR = 2.0  # arrivals without correction that are averaged in
SPOOL_BYTES = 1 << 28  # of a gap's frames in memory; more go to a temporary file


class Gap(NamedTuple):
    """Frames from one hand box to the next, both included, and the runs through them, one result a frame.

    Before the first hand box there is no forward run, after the last no backward run.
    """

    first: int
    forward: list[TrackResult] | None
    backward: list[TrackResult] | None


def read_hand_boxes(source: Path, labels: Path, start: int, end: int | None) -> tuple[Tracks, range]:
    """Read the boxes that a person drew in frames `start` to before `end`; returns them and these frames.

    The video is read once, up to `end`, for its size; boxes beyond `end` are not looked at. Raises InputError for a
    file that does not fit the video, a box that misses its frame, or frames without a box.
    """
    with open_source(source, 0, end) as frames:
        about = TrackFiles({}, frames.name, frames.fps)
        for frame in frames:
            about.write(frame, {}, 0.0)
        about.fps = frames.mean_fps or about.fps  # known when all is read
        frames.check_end(frame)
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


def annotate(
    source: Path,
    keys: Tracks,
    frames: range,
    tracker: MultiObjectTracker,
    progress: Callable[[int], AbstractContextManager[Callable[[], None]]],
) -> Tracks:
    """Fill in the boxes of all objects in `frames` between hand boxes, see `annotate_object`.

    `progress` takes the number of frames to read, and gives what is called for each.
    """
    spans = {
        number: spans_seen(frames, drawn, [frame for frame, who in keys.gone if who == number])
        for number, drawn in keys.objects().items()
    }
    with progress(sum(len(span) for seen in spans.values() for span in seen)) as advance:
        rows = [
            row
            for number, drawn in keys.objects().items()
            for row in annotate_object(partial(open_source, source), spans[number], drawn, tracker, advance)
        ]
    names = keys.video.file_names[frames.start :]
    return Tracks.checked(keys.video._replace(frames=frames, file_names=names), rows, str(source))


def write_annotation(source: Path, tracks: Tracks, paths: Mapping[str, Path], video_path: Path | None) -> None:
    """Write tracks to `paths`, format -> path, and the video with the boxes drawn if a path is given for it."""
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


def annotate_object(
    open_frames: Callable[[int, int], FrameSource],
    spans: Sequence[range],
    keys: Sequence[Row],
    tracker: MultiObjectTracker,
    advance: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Follow one object from its hand boxes through the frames in which it may be seen.

    Args:
        open_frames: opens the video from a frame to before another, numbers 0-based.
        spans: those frames, in order, as `spans_seen` gives them; each with one hand box or more.
        keys: hand boxes, by frame; at least one.
        tracker: starts and steps targets; those that it follows itself are left alone.
        advance: called once for each frame that is read.
    Returns a row for each of those frames in which the object is not absent. Raises
    InputError for a frame that cannot be read, a box that misses its frame, or a gap whose frames do not fit on the
    disk.
    """
    gaps = []
    for span in spans:
        inside = [key for key in keys if key.frame in span]
        gaps += follow_gaps(partial(open_frames, span.start, span.stop), inside, tracker, advance)
    return blend([key for key in keys if any(key.frame in span for span in spans)], gaps)


def spans_seen(frames: range, keys: Sequence[Row], gone: Iterable[int] = ()) -> list[range]:
    """Those of `frames` in which one object may be seen, in order, each span with a hand box or more.

    Args:
        frames: numbers of the frames that are wanted.
        keys: hand boxes of the video, by frame.
        gone: frames without a hand box from which on the object is absent, until its next hand box.
    """
    spans, first = [], 0
    for frame in sorted({*gone, frames.stop}):
        if frame >= first:
            spans.append(range(max(first, frames.start), min(frame, frames.stop)))
            first = next((key.frame for key in keys if key.frame > frame), frames.stop)
    return [span for span in spans if any(key.frame in span for key in keys)]


def follow_gaps(
    open_frames: Callable[[], FrameSource],
    keys: Sequence[Row],
    tracker: MultiObjectTracker,
    advance: Callable[[], None] = lambda: None,
) -> list[Gap]:
    """The runs between hand boxes, before the first and after the last; arguments as for `annotate_object`."""
    gaps: list[Gap] = []
    waiting, key = list(keys), None
    with open_frames() as source, tempfile.SpooledTemporaryFile(SPOOL_BYTES) as stream:
        frames, spool = without_gaps(source), _Spool(stream, source.name)
        for frame in frames:
            advance()
            spool.append(frame)
            if frame.number == waiting[0].frame:
                if len(spool) > (1 if key is None else 2):  # there are frames between
                    gaps.append(_follow(tracker, spool, key, waiting[0]))
                key = waiting.pop(0)
                spool.keep_last()
            if not waiting:
                break
        if key is None or waiting:
            raise InputError(f"frame {waiting[0].frame} has a box but {source.name} has no such frame")
        target, run = tracker.start(frame.image, key.box), [_given(key)]
        for frame in frames:  # forwards only, so no frame has to wait
            advance()
            run += tracker.step(frame.image, [target])
    return [*gaps, Gap(key.frame, run, None)]


def blend(keys: Sequence[Row], gaps: Sequence[Gap]) -> list[Row]:
    """Rows of an object from its hand boxes and the runs between them, by the rule."""
    boxes = {key.frame: np.array(key.box, np.float64) for key in keys}
    correction = _mean_correction(boxes, gaps)
    rows = {key.frame: key._replace(score=1.0) for key in keys}
    for gap in gaps:
        count = len(gap.forward or gap.backward or ())
        for i in range(count):
            frame, u = gap.first + i, i / max(count - 1, 1)
            if frame in boxes:
                continue
            weighed = []
            if gap.forward is not None:
                arrival = _arrival(gap.forward[-1], boxes.get(gap.first + count - 1))
                weighed.append((gap.forward[i], (1 - u) * (1 - u + u * arrival) if gap.backward else 1.0))
            if gap.backward is not None:
                arrival = _arrival(gap.backward[0], boxes.get(gap.first))
                weighed.append((gap.backward[i], u * (u + (1 - u) * arrival) if gap.forward else 1.0))
            row = _mean(frame, keys[0], weighed, correction)
            if row is not None:
                rows[frame] = row
    return [rows[frame] for frame in sorted(rows)]


def _mean(frame: int, like: Row, weighed: Sequence[tuple[TrackResult, float]], correction: np.ndarray) -> Row | None:
    """The weighted mean of corrected boxes and of scores; None if the object is absent in all."""
    seen = [(result, weight) for result, weight in weighed if not result.absent and min(result.box[2:]) > 0]
    if not seen:
        return None
    weights = np.array([weight * result.score for result, weight in seen]) + 1e-9  # where no score is above 0: evenly
    score = np.average([result.score for result, _ in seen], weights=weights)
    boxes = np.array([_corrected(result.box, correction) for result, _ in seen])
    x, y, w, h = np.average(boxes, axis=0, weights=weights).round(4).tolist()
    return like._replace(frame=frame, box=(x, y, w, h), score=round(float(score), 6), key=False)


def _given(key: Row) -> TrackResult:
    return TrackResult(np.array(key.box, np.float64), 1.0)


def _arrival(result: TrackResult, hand_box: np.ndarray | None) -> float:
    """IoU of a run's last box with the hand box there."""
    if hand_box is None or result.absent:
        return 0.0
    return float(iou(xywh_to_xyxy(np.asarray(result.box, np.float64)), xywh_to_xyxy(hand_box)))


def _mean_correction(boxes: dict[int, np.ndarray], gaps: Sequence[Gap]) -> np.ndarray:
    """(4,) shift of the centre in units of the box's sides, and log of the sides' scale: from runs to hand boxes."""
    total, weight = np.zeros(4), PRIOR
    for gap in gaps:
        if gap.forward is None or gap.backward is None:
            continue
        for frame, result in ((gap.first + len(gap.forward) - 1, gap.forward[-1]), (gap.first, gap.backward[0])):
            arrival = _arrival(result, boxes[frame])
            if arrival > 0:
                hand, tracked = boxes[frame], np.asarray(result.box, np.float64)
                shift = (hand[:2] + hand[2:] / 2 - tracked[:2] - tracked[2:] / 2) / tracked[2:]
                total += arrival * np.concatenate([shift, np.log(hand[2:] / tracked[2:])])
                weight += arrival
    return total / weight


def _corrected(box: np.ndarray, correction: np.ndarray) -> np.ndarray:
    sides = box[2:] * np.exp(correction[2:])
    return np.concatenate([box[:2] + box[2:] / 2 + correction[:2] * box[2:] - sides / 2, sides])


def _follow(tracker: MultiObjectTracker, frames: _Spool, key: Row | None, after: Row) -> Gap:
    """Run forwards from `key` and backwards from `after`, both in one batch a step, through the frames between."""
    last = len(frames) - 1
    ways = [(box, order) for box, order in ((key, range(last + 1)), (after, range(last, -1, -1))) if box is not None]
    targets = [tracker.start(frames[order[0]], box.box) for box, order in ways]
    runs = [[_given(box)] for box, _ in ways]
    for i in range(1, last + 1):
        results = tracker.step([frames[order[i]] for _, order in ways], targets)
        for run, result in zip(runs, results, strict=True):
            run.append(result)
    return Gap(frames.first, None if key is None else runs[0], runs[-1][::-1])


class _Spool:
    """Frames of a gap, kept so that they can be read backwards: in memory while they are few, then in a file."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream, self._name, self._count = stream, name, 0
        self.first = 0  # number of the first frame in the source
        self._shape: tuple[int, ...] = ()

    def append(self, frame: Frame) -> None:
        if self._count == 0:
            self.first, self._shape = frame.number, frame.image.shape
        if frame.image.shape != self._shape:
            raise InputError(
                f"{self._name}: frame {frame.number} has another size than frame {self.first}; make all alike"
            )
        self._stream.seek(0, 2)
        try:
            self._stream.write(np.ascontiguousarray(frame.image).data)
        except OSError as error:
            raise InputError(
                f"{self._name}: frames {self.first} to {frame.number} do not fit in {tempfile.gettempdir()}"
                f" ({error.strerror}): draw a box between them, or set TMPDIR to a larger disk"
            ) from error
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> np.ndarray:
        size = int(np.prod(self._shape))
        self._stream.seek(index * size)
        return np.frombuffer(self._stream.read(size), np.uint8).reshape(self._shape)

    def keep_last(self) -> None:
        """Forget all frames but the last, which is the first of the next gap."""
        last = self[self._count - 1].tobytes()
        self.first += self._count - 1
        self._stream.seek(0)
        self._stream.truncate()
        self._stream.write(last)
        self._count = 1
