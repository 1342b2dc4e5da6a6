"""Boxes for unlabelled video and photos: MobileSAM proposes, independent trackers follow, what agrees is kept.

propose_labels.py clips|photos|measure FOLDER --sam mobile_sam.pt [--models MODELS] [--out OUT] [--known LABELS]

The rules are the constants below; README.md beside this file gives their measured accuracy. Frames are (H, W, 3)
uint8 RGB, boxes float64 xyxy in frame pixels, 0-based; files hold x,y,w,h. A box of NaN stands for "no label".
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.nn.functional import interpolate, pad

from lorat_plugin.boxes import area, iou, xywh_to_xyxy, xyxy_to_xywh
from lorat_plugin.crop import normalize
from lorat_plugin.datasets.clips import find_clips, read_clip
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.baselines import create_baseline
from lorat_plugin.files import link_or_copy, whole_file
from lorat_plugin.harness.got10k import FrameTracker, TrackerLoRAT
from lorat_plugin.video.mobile_sam import load_mobile_sam
from lorat_plugin.video.source import list_images, read_image

if TYPE_CHECKING:
    from transformers import SamModel

SIDE = 640  # long side of MobileSAM's input, pixels; 1024 is its own size and three times slower
CELL = 16  # input pixels for a cell of its embedding
GRID = 12  # points along the long side
LEAST_QUALITY, LEAST_STABILITY = 0.86, 0.9  # of a proposed mask: predicted IoU; IoU of its masks at logits -1 and +1
LEAST_SIDE, LARGEST_SIDE = 20, 0.5  # sqrt(area) of a proposed box: pixels; share of that of the picture
BORDER = 2  # pixels between a proposed box and the border
LEAST_FILL, LARGEST_ASPECT = 0.35, 4.0  # mask / box area; long / short side
LEAST_CONTRAST = 0.35  # distance of the colours of mask and surroundings, see `contrast`
SAME = 0.5  # IoU of boxes from which two proposals, or a proposal and a label, show one target
AGREE = 0.7  # least IoU of two trackers, and of a track with its way back
SHARP = 0.75  # least IoU of the trackers' box with that of the mask which it prompts
LEAST_LENGTH = 6  # frames of a track
SEEDS = 3  # frames of a clip in which targets are proposed, from the first to the last
PER_SEED, PER_CLIP, STATIC_PER_CLIP = 5, 12, 3  # proposals followed from a frame, tracks kept, of them without motion
STATIC = 0.15  # largest change of a box that is thrown away as part of the background, see `change`
MOVES = 1.2  # of what moves by itself: least change of its pixels as a multiple of the picture's, see `motion`


class Proposal(NamedTuple):
    """A box that a mask fits, and how object-like it looks; a higher rank comes first."""

    box: np.ndarray
    rank: float
    moved: float  # change of its pixels as a multiple of the picture's, see `motion`


class Sam:
    """MobileSAM on one frame at a time, without the padding to a square."""

    def __init__(self, model: SamModel, side: int = SIDE) -> None:
        self.model = model.eval().to(memory_format=torch.channels_last)  # twice as fast
        self.side = side
        self.model.prompt_encoder.input_image_size = side

    @torch.inference_mode()
    def see(self, frame: np.ndarray) -> None:
        """Embed a frame, to which the prompts that follow refer."""
        self.frame_size = frame.shape[:2]
        self.scale = self.side / max(self.frame_size)
        self.height, self.width = (round(n * self.scale) for n in self.frame_size)
        pixels = torch.from_numpy(cv2.resize(frame, (self.width, self.height)))[None].float()
        padded = pad(normalize(pixels), (0, -self.width % CELL, 0, -self.height % CELL))
        with torch.autocast("cpu", torch.bfloat16):
            seen = self.model.get_image_embeddings(padded).float()
        rows, columns = (torch.arange(n) + 0.5 for n in seen.shape[-2:])
        at = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1) * CELL / self.side
        self.position = self.model.shared_image_embedding(at).permute(2, 0, 1)[None]
        self.seen = seen + self.model.prompt_encoder.no_mask_embed.weight[..., None, None]

    @torch.inference_mode()
    def ask(self, points: np.ndarray | None = None, boxes: np.ndarray | None = None) -> tuple[torch.Tensor, np.ndarray]:
        """Three masks for each of N points (N, 2) or N boxes (N, 4): logits (N, 3, h, w), predicted IoU (N, 3)."""
        prompts = torch.from_numpy(np.asarray(points if boxes is None else boxes) * self.scale - 0.5).float()[None]
        if boxes is None:
            prompts = prompts[:, :, None]
            labels = torch.ones(prompts.shape[:3], dtype=torch.int32)
            sparse, _ = self.model.prompt_encoder(prompts, labels, None, None)
        else:
            sparse, _ = self.model.prompt_encoder(None, None, prompts, None)
        with torch.autocast("cpu", torch.bfloat16):
            logits, quality = self.model.mask_decoder(self.seen, self.position, sparse, torch.zeros(1, 1, 1, 1), True)
        return logits[0].float(), quality[0].float().numpy()

    def masks(self, logits: torch.Tensor) -> np.ndarray:
        """Logits (N, h, w) as masks of the frame, (N, H, W) bool."""
        full = interpolate(logits[None], [n * 4 for n in logits.shape[-2:]], mode="bilinear")
        return interpolate(full[..., : self.height, : self.width], self.frame_size, mode="bilinear")[0].numpy() > 0

    def sharpen(self, boxes: np.ndarray) -> np.ndarray:
        """For boxes (N, 4) the bounds of the mask that fits each best; NaN where it fits by less than `SHARP`."""
        logits, _ = self.ask(boxes=boxes)
        found = np.stack([[bounds(mask) for mask in self.masks(three)] for three in logits])
        fit = iou(found, np.repeat(boxes[:, None], 3, 1))
        best = np.arange(len(boxes)), fit.argmax(1)
        return np.where(fit[best][:, None] >= SHARP, found[best], np.nan)


def bounds(mask: np.ndarray) -> np.ndarray:
    """Bounds of a mask (H, W), (4,); zeros if it is empty."""
    x, y = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return np.array([x[0], y[0], x[-1] + 1, y[-1] + 1] if len(x) else [0] * 4, np.float64)


def contrast(frame: np.ndarray, mask: np.ndarray) -> float:
    """Distance in [0, 1] (Bhattacharyya) of the Lab colours in a mask from those in as wide a ring around it."""
    lab = cv2.cvtColor(frame, cv2.COLOR_RGB2LAB)
    reach = max(int(np.sqrt(mask.sum()) * 0.25), 2)
    inside = mask.astype(np.uint8)
    ring = cv2.dilate(inside, np.ones((2 * reach + 1,) * 2, np.uint8)) - inside
    bins, spread = [8, 8, 8], [0, 256] * 3
    a, b = (cv2.calcHist([lab], [0, 1, 2], part, bins, spread) for part in (inside, ring))
    return float(cv2.compareHist(a / max(a.sum(), 1), b / max(b.sum(), 1), cv2.HISTCMP_BHATTACHARYYA))


def propose(sam: Sam, frame: np.ndarray, motion: np.ndarray | None = None) -> list[Proposal]:
    """Object-like things in a frame, the likeliest first, none twice.

    `motion`, (H, W), is how much each pixel changes; what changes more than the picture comes first.
    """
    sam.see(frame)
    height, width = frame.shape[:2]
    step = max(height, width) / GRID
    points = np.stack(np.meshgrid(np.arange(step / 2, width, step), np.arange(step / 2, height, step)), -1)
    points = points.reshape(-1, 2)
    found = []
    for chunk in np.array_split(points, -(-len(points) // 64)):
        logits, quality = sam.ask(points=chunk)
        stability = (logits > 1).sum((-2, -1)) / (logits > -1).sum((-2, -1)).clip(1)
        good = (quality >= LEAST_QUALITY) & (stability.numpy() >= LEAST_STABILITY)
        if good.any():
            masks = sam.masks(logits[torch.from_numpy(good)])
            kept = [(mask, q) for mask, q in zip(masks, quality[good], strict=True) if sensible(mask)]
            found += [(bounds(mask), q, mask) for mask, q in kept]
    chosen: list[Proposal] = []
    for box, quality, mask in sorted(found, key=lambda one: -one[1]):
        if all(iou(box, other.box) < SAME for other in chosen):
            difference = contrast(frame, mask)
            if difference >= LEAST_CONTRAST:
                moved = 0.0 if motion is None else float(motion[mask].mean() / (motion.mean() + 1))
                chosen.append(Proposal(box, float(quality) + difference + min(moved, 3.0), moved))
    return sorted(chosen, key=lambda one: -one.rank)


def motion(frame: np.ndarray, near: np.ndarray) -> np.ndarray:
    """How much each pixel differs from a frame near in time once the camera's motion is taken out, (H, W) float."""
    grey, other = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (frame, near))
    corners = cv2.goodFeaturesToTrack(grey, 200, 0.01, 8)
    warp = None
    if corners is not None and len(corners) >= 8:
        moved, found, _ = cv2.calcOpticalFlowPyrLK(grey, other, corners, None)
        warp, _ = cv2.estimateAffinePartial2D(corners[found == 1], moved[found == 1])
    if warp is not None:
        size = frame.shape[1::-1]
        near = cv2.warpAffine(near, warp, size, flags=cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)
    return np.abs(cv2.blur(frame, (3, 3)).astype(np.float32) - cv2.blur(near, (3, 3))).mean(2)


def sensible(mask: np.ndarray) -> bool:
    """Whether a mask (H, W) has the size and shape of a target and lies free of the border."""
    box = bounds(mask)
    height, width = mask.shape
    sides = box[2:] - box[:2]
    side = np.sqrt(sides.prod())
    return bool(
        LEAST_SIDE <= side <= LARGEST_SIDE * np.sqrt(height * width)
        and max(sides) <= LARGEST_ASPECT * min(sides)
        and mask.sum() >= LEAST_FILL * sides.prod()
        and min(box[:2]) >= BORDER
        and (box[2:] <= (width - BORDER, height - BORDER)).all()
    )


def run(tracker: FrameTracker, frames: Sequence[np.ndarray], box: np.ndarray) -> np.ndarray:
    """Follow a box through frames; (N, 4), the first row is the given box."""
    tracker.start(frames[0], xyxy_to_xywh(box))
    return np.stack([box, *(xywh_to_xyxy(np.asarray(tracker.follow(frame), np.float64)) for frame in frames[1:])])


def vote(runs: np.ndarray) -> np.ndarray:
    """Mean of the two runs that agree best in each frame, up to the frame in which no two reach `AGREE`.

    (K, N, 4) -> (M, 4), M <= N.
    """
    pairs = [(i, j) for j in range(len(runs)) for i in range(j)]
    overlap = np.stack([iou(runs[i], runs[j]) for i, j in pairs])
    means = np.stack([(runs[i] + runs[j]) / 2 for i, j in pairs])
    best = overlap.argmax(0)
    parted = np.flatnonzero(overlap.max(0) < AGREE)
    end = parted[0] if len(parted) else runs.shape[1]
    return means[best[:end], np.arange(end)]


def follow(trackers: Sequence[FrameTracker], frames: Sequence[np.ndarray], box: np.ndarray) -> np.ndarray:
    """Follow a box through frames while two trackers agree, and agree with a run back from where that ends.

    The first two trackers run always, the others where those disagree before the end. Returns (M, 4), 1 <= M <= N.
    """
    if len(frames) == 1:
        return box[None]
    runs = [run(tracker, frames, box) for tracker in trackers[:2]]
    agreed = vote(np.stack(runs))
    if 2 <= len(agreed) < len(frames):
        agreed = vote(np.stack([*runs, *(run(tracker, frames, box) for tracker in trackers[2:])]))
    while len(agreed) > 1:
        back = np.stack([run(t, frames[: len(agreed)][::-1], agreed[-1])[::-1] for t in trackers[:2]])
        wrong = np.flatnonzero(iou(back, np.stack([agreed] * len(back))).max(0) < AGREE)
        if not len(wrong):
            break
        agreed = agreed[: max(int(wrong[0]), 1)]
    return agreed


def both_ways(trackers: Sequence[FrameTracker], frames: Sequence[np.ndarray], seed: int, box: np.ndarray) -> np.ndarray:
    """Boxes of a target in all frames from its box in frame `seed`; (N, 4), NaN where `follow` has ended."""
    track = np.full((len(frames), 4), np.nan)
    after = follow(trackers, frames[seed:], box)
    before = follow(trackers, frames[seed::-1], box)
    track[seed : seed + len(after)] = after
    track[seed - len(before) + 1 : seed + 1] = before[::-1]
    return track


def sharpen_all(sam: Sam, frames: Sequence[np.ndarray], tracks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Tracks (N, 4) with the bounds of masks in place of the trackers' boxes; NaN where those do not fit."""
    sharp = [np.full_like(track, np.nan) for track in tracks]
    for i, frame in enumerate(frames):
        present = [k for k, track in enumerate(tracks) if not np.isnan(track[i, 0])]
        if present:
            sam.see(frame)
            for k, box in zip(present, sam.sharpen(np.stack([tracks[k][i] for k in present])), strict=True):
                sharp[k][i] = box
    return sharp


def change(track: np.ndarray) -> float:
    """Largest move of the centre plus change of a side between any two labelled frames of (N, 4), in mean sides."""
    boxes = track[~np.isnan(track[:, 0])]
    sides = boxes[:, 2:] - boxes[:, :2]
    both = np.ptp(boxes[:, :2] + sides / 2, axis=0).max() + np.ptp(sides, axis=0).max()
    return float(both / np.sqrt(sides.prod(1).mean()))


def length(track: np.ndarray) -> int:
    """Labelled frames of a track."""
    return int((~np.isnan(track[:, 0])).sum())


def label_clip(
    sam: Sam, trackers: Sequence[FrameTracker], frames: Sequence[np.ndarray], known: Sequence[np.ndarray] = ()
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Tracks of new targets: the frame of the proposal, the trackers' boxes and the sharp ones, (N, 4) both."""
    found: list[tuple[int, np.ndarray, bool]] = []
    for seed in sorted({round(i * (len(frames) - 1) / (SEEDS - 1)) for i in range(SEEDS)}):
        near = frames[seed - 2 if seed >= 2 else min(seed + 2, len(frames) - 1)]
        proposals = propose(sam, frames[seed], motion(frames[seed], near))
        taken = [track[seed] for track in (*known, *(track for _, track, _ in found)) if not np.isnan(track[seed, 0])]
        fresh = [p for p in proposals if all(iou(p.box, box) < SAME for box in taken)]
        if sum(not moving for *_, moving in found) >= STATIC_PER_CLIP:
            fresh = [p for p in fresh if p.moved >= MOVES]
        for proposal in fresh[:PER_SEED]:
            track = both_ways(trackers, frames, seed, proposal.box)
            if length(track) >= LEAST_LENGTH:
                found.append((seed, track, proposal.moved >= MOVES))
    sharp = sharpen_all(sam, frames, [track for _, track, _ in found])
    made = [(*one, fine) for one, fine in zip(found, sharp, strict=True) if length(fine) >= LEAST_LENGTH]
    made = [one for one in made if change(one[3]) >= STATIC]
    made.sort(key=lambda one: (not one[2], -length(one[3])))
    return [(seed, track, fine) for seed, track, _, fine in made[:PER_CLIP]]


def write_track(path: Path, track: np.ndarray) -> None:
    """Write a track (N, 4) as rows of x,y,w,h, zeros where there is no label."""
    with whole_file(path) as part:
        np.savetxt(part, np.nan_to_num(xyxy_to_xywh(track)), fmt="%.6g", delimiter=",")


def label_clips(args: argparse.Namespace, sam: Sam, trackers: Sequence[FrameTracker]) -> None:
    """Label every clip of a folder that has no groundtruth.txt; a clip whose labels are complete is passed over."""
    homes = [p for p in sorted(args.folder.iterdir()) if p.is_dir() and not (p / "groundtruth.txt").exists()]
    for home in homes:
        frames = [read_image(path) for path in list_images(home)]
        if len(frames) < LEAST_LENGTH or (args.out / f"{home.name}__p00.txt").exists():
            continue
        labels = sorted(args.known.glob(f"{home.name}__*.txt")) if args.known else []
        known = [xywh_to_xyxy(read_clip(home, path).boxes) for path in labels]
        made = label_clip(sam, trackers, frames, known)
        for number, (_, _, track) in reversed(list(enumerate(made))):  # the first one last: with it they are complete
            write_track(args.out / f"{home.name}__p{number:02d}.txt", track)
        print(json.dumps({"clip": home.name, "tracks": len(made)}), flush=True)
    if not homes:
        raise InputError(f"{args.folder}: no clip without a groundtruth.txt in it; wanted <clip>/0000.jpg below it")


def label_photos(args: argparse.Namespace, sam: Sam) -> None:
    """Box the things in photos: a folder in COCO's layout, with links to the photos."""
    home = args.out / "images" / "train2017"
    paths = [path for path in list_images(args.folder) if not path.name.startswith(tuple(args.exclude))]
    if not paths:
        raise InputError(f"{args.folder}: no photos in it; name a folder of images, or exclude fewer")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for path in paths:
        frame = read_image(path)
        proposals = propose(sam, frame)[: args.per_photo]
        if not proposals:
            continue
        number, (height, width) = len(images) + 1, frame.shape[:2]
        images.append({"id": number, "file_name": path.name, "width": width, "height": height})
        for one in proposals:
            box = xyxy_to_xywh(one.box).tolist()
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": box})
        if not (home / path.name).exists():
            home.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, home / path.name)
        print(json.dumps({"photo": path.name, "boxes": len(proposals)}), flush=True)
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    target = args.out / "annotations" / "instances_train2017.json"
    with whole_file(target) as part:
        part.write_text(json.dumps(content), encoding="utf-8")


def accuracy(track: np.ndarray, truth: np.ndarray, seed: int) -> dict[str, float]:
    """Of the labelled frames other than the seed that have a true box: how many, IoU > 0.5, mean IoU, mean size."""
    both = ~np.isnan(track[:, 0]) & ~np.isnan(truth[:, 0])
    both[seed] = False
    if not both.any():
        return {"frames": 0}
    overlap = iou(track[both], truth[both])
    size = float(np.median(np.sqrt(area(track[both]) / area(truth[both]))))
    return {"frames": len(overlap), "right": float((overlap > 0.5).mean()), "iou": float(overlap.mean()), "size": size}


def measure(args: argparse.Namespace, sam: Sam, trackers: Sequence[FrameTracker]) -> None:
    """Compare with the labels of labelled clips: from the first true box, and from proposals that hit the target."""
    for clip in find_clips(args.folder):
        frames = [read_image(path) for path in clip.frames]
        truth = xywh_to_xyxy(clip.boxes)
        first = int(np.flatnonzero(clip.present)[0])
        agreed = both_ways(trackers, frames, first, truth[first])
        (sharp,) = sharpen_all(sam, frames, [agreed])
        made = label_clip(sam, trackers, frames)
        hits = [one for one in made if iou(one[1][one[0]], np.nan_to_num(truth[one[0]])) > SAME]
        row = {
            "clip": clip.name,
            "frames": int(clip.present.sum()) - 1,
            "given": [accuracy(track, truth, first) for track in (agreed, sharp)],
            "proposals": len(made),
            "hits": [[accuracy(track, truth, seed) for track in tracks] for seed, *tracks in hits],
        }
        print(json.dumps(row), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the three commands; 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("clips", "photos", "measure"))
    parser.add_argument("folder", type=Path, help="of clips, or of photos")
    parser.add_argument("--sam", type=Path, required=True, help="mobile_sam.pt")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the two trackers' files")
    parser.add_argument("--out", type=Path, default=Path("proposed"), help="folder to write to")
    parser.add_argument("--known", type=Path, help="folder of labels whose targets are left out")
    parser.add_argument("--exclude", nargs="*", default=[], help="names of photos that start so are left out")
    parser.add_argument("--per-photo", type=int, default=6, help="boxes a photo at most")
    parser.add_argument("--side", type=int, default=SIDE, help="long side of MobileSAM's input, pixels")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        if not args.folder.is_dir():
            raise InputError(f"{args.folder}: no such folder")
        sam = Sam(load_mobile_sam(args.sam), args.side)
        if args.command == "photos":
            label_photos(args, sam)
            return 0
        trackers = [create_baseline(name, args.models) for name in ("VitTrack", "NanoTrack")]
        trackers.append(TrackerLoRAT())
        label_clips(args, sam, trackers) if args.command == "clips" else measure(args, sam, trackers)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
