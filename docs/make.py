"""Makes the documents' pictures and the page of benchmarks: `python docs/make.py`, in the source tree.

The pictures show `lorat_tiny` on the clips of `lorat demo`. The page has the figures of docs/benchmarks/*.json:
clips.json from `lorat compare --json`, engines.json from `lorat benchmark model --json`, and gpu.json, if it exists,
from `tools/on_gpu.sh`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from lorat_plugin import LoRATTracker
from lorat_plugin.boxes import xywh_to_xyxy
from lorat_plugin.crop import Crop, cells_on_target, mean_colour, normalize
from lorat_plugin.tracking import hann_window
from lorat_plugin.video.demo_clips import read_demo_clip
from lorat_plugin.video.drawing import draw_results

DOCS = Path(__file__).parent
IMAGES = DOCS / "images"
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"


def draw_tracked(clip: str, tracker: LoRATTracker, path: Path, numbers: tuple[int, ...]) -> None:
    """Parts of frames of a clip, around the target, with the tracked box and its score."""
    frames, boxes = read_demo_clip(clip)
    tracker.init(frames[0], boxes[0])
    shown = []
    for number, frame in enumerate(frames):
        result = tracker.update(frame)
        if number in numbers:
            left = int(np.clip(result.box[0] + result.box[2] / 2 - 160, 0, frame.shape[1] - 320))
            shown.append(draw_results(frame, {0: result})[:, 2 * left : 2 * left + 640])
    strip = cv2.resize(np.concatenate(shown, axis=1), None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(path), cv2.cvtColor(strip, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])


def draw_absence(tracker: LoRATTracker, path: Path) -> None:
    """A cut to another scene and back: the first and last changes of status, with the box in the status's colour."""
    frames, boxes = read_demo_clip("davis_camel")
    other, _ = read_demo_clip("davis_bmx-trees")
    film = [*frames[:10], *other[:25], *frames[10:20]]
    tracker.init(film[0], boxes[0])
    results = [tracker.update(frame) for frame in film[1:]]
    statuses = ["", *(result.status for result in results)]
    changes = [number for number in range(1, len(film)) if statuses[number] != statuses[number - 1]]
    shown = [*changes[:3], *changes[-2:]]
    figure = Figure(figsize=(12, 1.65), layout="constrained")
    for axis, number in zip(figure.subplots(1, len(shown)), shown, strict=True):
        result = results[number - 1]
        colour = {"tracking": GREEN, "uncertain": ORANGE, "absent": BLUE}[result.status]
        axis.imshow(film[number])
        axis.add_patch(_rectangle(xywh_to_xyxy(result.box), colour))
        axis.set_title(f"frame {number}: {result.status}, {result.score:.2f}", color=colour, fontsize=9)
        axis.set(xticks=[], yticks=[])
        for side in axis.spines.values():
            side.set(color=colour, linewidth=3)
    figure.savefig(path, dpi=100)


@torch.inference_mode()
def draw_frame_path(clip: str, tracker: LoRATTracker, path: Path, gap: int = 3, at: int = 79) -> None:
    """What happens to a frame: search region, template, score map, the map with the window, and the box."""
    variant = tracker.engine.variant
    frames, boxes = read_demo_clip(clip)
    first, frame = frames[at - gap], frames[at]
    before, fill = xywh_to_xyxy(boxes[at - gap]), mean_colour(first)
    z = Crop.around(before, variant.template_area_factor, variant.template_size, first.shape[:2])
    x = Crop.around(before, variant.search_area_factor, variant.search_size, frame.shape[:2])
    template, search = z.cut(first, fill, rounded=True), x.cut(frame, fill, rounded=True)
    cells = cells_on_target(z.to_crop(before), variant.template_size, variant.template_grid)
    inputs = [normalize(torch.from_numpy(crop[None]).float(), variant.normalization) for crop in (template, search)]
    tokens = tracker.engine.encode_template(inputs[0], torch.from_numpy(cells[None].astype(np.int64)))
    prediction = tracker.engine.predict([tokens], inputs[1])
    scores = prediction.score_map[0].sigmoid().numpy()
    weight = variant.window_weight
    windowed = (1 - weight) * scores + weight * hann_window(variant.search_grid).numpy()
    row, column = np.unravel_index(windowed.argmax(), windowed.shape)
    box = prediction.boxes[0, row, column].numpy() * variant.search_size

    figure = Figure(figsize=(12, 3), layout="constrained")
    axes = figure.subplots(1, 5, width_ratios=[1.75, 1, 1, 1, 1])
    titles = ("frame", "template, target's tokens", "search region", "score map", "with the window")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    axes[0].imshow(frame)
    x1, y1, x2, y2 = x.to_frame(np.array([0, 0, variant.search_size, variant.search_size], np.float64))
    for corners, colour in (((x1, y1, x2, y2), BLUE), (before, ORANGE)):
        axes[0].add_patch(_rectangle(corners, colour))
    axes[0].set(xlim=(0, frame.shape[1]), ylim=(frame.shape[0], 0))
    axes[1].imshow(template)
    side = variant.patch_size
    for i, j in np.ndindex(cells.shape):
        if cells[i, j]:
            axes[1].add_patch(Rectangle((j * side, i * side), side, side, color=ORANGE, alpha=0.3, linewidth=0))
        axes[1].add_patch(Rectangle((j * side, i * side), side, side, fill=False, color="white", linewidth=0.6))
    extent = (0, variant.search_size, variant.search_size, 0)
    for axis, grid in zip(axes[2:], (None, scores, windowed), strict=True):
        axis.imshow(search)
        if grid is not None:
            axis.imshow(grid, extent=extent, alpha=0.6, cmap="viridis", vmin=0, vmax=1)
    axes[4].add_patch(_rectangle(box, GREEN))
    figure.savefig(path, dpi=100)


def draw_network(path: Path) -> None:
    """The network as blocks and arrows: frozen parts grey, trained ones coloured."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    axis = figure.subplots()
    axis.set(xlim=(0, 110), ylim=(2, 38))
    axis.set_axis_off()
    parts: dict[str, tuple[float, float, float, float, str, str]] = {  # x, y, width, height, colour, text
        "z": (1, 27, 13, 8, "white", "template"),
        "x": (1, 8, 13, 8, "white", "search region"),
        "pz": (19, 27, 15, 8, "0.85", "patch embedding\n+ position"),
        "px": (19, 8, 15, 8, "0.85", "patch embedding\n+ position"),
        "tz": (39, 27, 15, 8, ORANGE, "+ token type\ntarget or ground"),
        "tx": (39, 8, 15, 8, ORANGE, "+ token type\nsearch"),
        "blocks": (59, 6, 24, 31, "0.85", ""),
        "score": (90, 26, 18, 8, ORANGE, "MLP head:\nscore map"),
        "boxes": (90, 9, 18, 8, ORANGE, "MLP head:\nleft, top,\nright, bottom"),
    }
    for x, y, width, height, colour, text in parts.values():
        style = {"boxstyle": "round,pad=0,rounding_size=1.2", "facecolor": colour, "edgecolor": "0.3"}
        axis.add_patch(FancyBboxPatch((x, y), width, height, **style))
        axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)
    axis.text(71, 33.5, "DINOv2 blocks", ha="center", fontsize=10)
    axis.text(71, 29.5, "all tokens attend to each other", ha="center", fontsize=8)
    for y, label in ((21, "attention: q, k, v, out"), (11, "MLP: both layers")):
        for x, colour, text in ((61, "0.7", "W frozen"), (73, ORANGE, "B A trained")):
            axis.add_patch(Rectangle((x, y), 8, 4.5, facecolor=colour, edgecolor="0.3"))
            axis.text(x + 4, y + 2.25, text, ha="center", va="center", fontsize=6.5)
        axis.text(71, y + 2.25, "+", ha="center", va="center", fontsize=12)
        axis.text(71, y + 5.3, label, ha="center", fontsize=8)
    for start, end in (
        ((14, 31), (19, 31)), ((34, 31), (39, 31)), ((54, 31), (59, 31)), ((14, 12), (19, 12)),
        ((34, 12), (39, 12)), ((54, 12), (59, 12)), ((83, 30), (90, 30)), ((83, 13), (90, 13)),
    ):  # fmt: skip
        axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color="0.3"))
    axis.text(1, 3.2, "grey: DINOv2, frozen      orange: trained; B A is added to W after training", fontsize=9)
    figure.savefig(path, dpi=100)


def draw_memory(path: Path) -> None:
    """LoRATv2's memory: which keys and values are computed when, and which chunk reads them."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axis = figure.subplots()
    axis.set(xlim=(0, 110), ylim=(0, 46))
    axis.set_axis_off()
    chunks = (  # left edge, image, when, layers, kept
        (2, "template", "once, at the start", "blocks, layers of chunk 0", "keys and values\nof chunk 0"),
        (
            39,
            "reference (phase 2)",
            "after a frame with a score above 0.9",
            "blocks, layers of chunk 1",
            "keys and values\nof chunk 1",
        ),
        (76, "search region", "in every frame", "blocks, layers of the last chunk", "head: score map, boxes"),
    )
    for number, (x, image, when, layers, result) in enumerate(chunks):
        last = number == 2
        boxes = ((36, 6, "white", image), (22, 7, "0.85", layers), (4, 8, ORANGE if last else BLUE, result))
        for y, height, colour, text in boxes:
            style = {"boxstyle": "round,pad=0,rounding_size=1.2", "facecolor": colour, "edgecolor": "0.3"}
            axis.add_patch(FancyBboxPatch((x, y), 30, height, **style))
            ink = "white" if colour == BLUE else "black"
            axis.text(x + 15, y + height / 2, text, ha="center", va="center", fontsize=10, color=ink)
        axis.text(x + 15, 43.3, when, ha="center", fontsize=9)
        for start, end in (((x + 15, 36), (x + 15, 29)), ((x + 15, 22), (x + 15, 12))):
            axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color="0.3"))
    for start, end in (((32, 9), (39, 24)), ((69, 9), (77, 22)), ((31, 12), (76, 23))):
        axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=BLUE, linewidth=1.6))
    axis.text(
        1, 0.6, "blue: memory of a target, read by later chunks in every block; no chunk reads a later one", fontsize=9
    )
    figure.savefig(path, dpi=100)


def benchmark_page() -> str:
    """The page of benchmarks: tables of the figures in docs/benchmarks."""
    clips, engines = (json.loads((DOCS / "benchmarks" / f"{name}.json").read_text()) for name in ("clips", "engines"))
    names = sorted(clips["trackers"], key=lambda name: -clips["trackers"][name]["auc"])
    measures = {"success AUC": "auc", "SR 0.5": "sr50", "SR 0.75": "sr75", "precision": "precision_score"}
    scores = [[name, *(f"{clips['trackers'][name][key]:.3f}" for key in measures.values())] for name in names]
    rivals = [
        [
            row["rival"],
            f"{row['difference']:+.3f}",
            f"{row['low']:+.3f} to {row['high']:+.3f}",
            f"{row['wins']} of {row['wins'] + row['losses'] + row['ties']}",
        ]
        for row in clips["auc_difference"]
    ]
    each = [[clip, *(f"{found[name]:.3f}" for name in names)] for clip, found in clips["sequence_auc"].items()]
    speed = [
        [
            f"`{row['details']['engine']}`",
            row["details"]["precision"],
            f"{row['ratio']:.2f}",
            f"{row['low']:.2f} to {row['high']:.2f}",
        ]
        for row in engines["comparisons"]
        if row["measure"] == "network alone"
    ]
    return f"""# Benchmarks

Written by `python docs/make.py` from `docs/benchmarks/*.json`, the output of the commands below; do not edit it.

## Eight public clips

`lorat compare --dataset clips:FOLDER --trackers LoRAT,MIL,NanoTrack,VitTrack,static --json` on the clips of
[the bundled weights' page](../../weights/README.md#scores), protocol `{clips["protocol"]}`, OpenCV 5. LoRAT is
`lorat_tiny` with the weights of 2026-11-24; each tracker runs once from the first box. Speeds are left out because the
machine was busy. Eight clips are few, as the intervals show, and intermediate weights were scored on them: on clips
kept back NanoTrack and VitTrack are ahead ([all three sets](../../weights/README.md#scores)). The table on the weights'
page differs in the third decimal: it leaves the first frame out, and OpenCV's trackers gave slightly different boxes on
that machine.

{_table(["tracker", *measures], scores)}
The difference of LoRAT's AUC to each, with a 95 % interval from a paired bootstrap over clips:

{_table(["rival", "difference", "interval", "LoRAT better in"], rivals)}
Success AUC by clip:

{_table(["clip", *names], each)}
## Engines

`lorat benchmark model --model lorat_tiny --engine all --json`: the network alone, one target, one CPU thread, each
engine beside `eager` in the same rounds. Above 1 is faster; the spread is between quartiles over
{engines["settings"]["rounds"]} rounds on a busy machine.

{_table(["engine", "precision", "ratio to eager", "quartiles"], speed)}
What is measured, and end to end: [Speed](speed.md).

## On a GPU

{gpu_section(DOCS / "benchmarks" / "gpu.json")}"""


def gpu_section(path: Path) -> str:
    """Figures of the file that `tools/on_gpu.sh` writes, or the sentence that there are none."""
    if not path.exists():
        return (
            "No GPU figures exist: nothing here has run on a GPU yet. `tools/on_gpu.sh OUT` tests and measures one;\n"
            "its `OUT/gpu.json`, copied to `docs/benchmarks/gpu.json`, fills this section.\n"
        )
    parts = json.loads(path.read_text(encoding="utf-8"))
    ratios, rates = [], []
    for name, part in parts.items():
        result = part["result"]
        if isinstance(result, dict):  # of `lorat benchmark --json`
            for row in result["comparisons"]:
                value = f"{row['value']:.4g} {row['unit']}"
                spread = f"{row['low']:.2f} to {row['high']:.2f}"
                ratios.append([f"{name}: {row['name']}", row["measure"], value, f"{row['ratio']:.2f}", spread])
        elif isinstance(result, list):  # the log of `lorat train`
            speeds = [row["pairs_per_second"] for row in result if "pairs_per_second" in row]
            rates.append([name, f"{np.median(speeds):.4g}"])
    tests = parts["tests"]["result"].strip().splitlines()[-1].strip(" =")
    failed = [name for name, part in parts.items() if part["exit"] not in (0, 124)]  # 124: the end of its time
    return f"""`tools/on_gpu.sh OUT` on one GPU. Tests: {tests}. Parts that failed: {", ".join(failed) or "none"}.

{_table(["contestant", "measure", "value", "ratio", "quartiles"], ratios)}
Ratios are to the row with ratio 1 of the same part and measure; above 1 is better. Pairs per second of whole training
runs, median over the log:

{_table(["run", "pairs/s"], rates)}"""


def _table(heading: list[str], rows: list[list[str]]) -> str:
    lines = [heading, ["---", *["--:"] * (len(heading) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rectangle(box_xyxy: Any, colour: str) -> Rectangle:
    x1, y1, x2, y2 = box_xyxy
    return Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=colour, linewidth=2)


def main() -> None:
    """Make all pictures and the page."""
    IMAGES.mkdir(exist_ok=True)
    tracker = LoRATTracker.from_pretrained("lorat_tiny", device="cpu", engine="eager")
    draw_tracked("davis_bmx-trees", tracker, IMAGES / "tracked.jpg", (1, 40, 79))
    draw_frame_path("davis_bmx-trees", tracker, IMAGES / "frame.jpg")
    draw_network(IMAGES / "network.png")
    draw_memory(IMAGES / "memory.png")
    tracker = LoRATTracker.from_pretrained("lorat_tiny", device="cpu", engine="eager", absent_below=0.3)
    draw_absence(tracker, IMAGES / "absence.jpg")
    (DOCS / "figures" / "benchmarks.md").write_text(benchmark_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
