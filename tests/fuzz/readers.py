"""Every reader of files that a user may bring, each with a good file to damage."""

from __future__ import annotations

import json
import os
import random
import signal
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from lorat_plugin import create_model, load_checkpoint, save_checkpoint
from lorat_plugin.apps.annotate import read_hand_boxes
from lorat_plugin.checkpoints.adapters import inject
from lorat_plugin.checkpoints.hub import model_card, read_scores, save_pretrained
from lorat_plugin.checkpoints.loading import HUB_CONFIG, HUB_WEIGHTS, backbone_tensors
from lorat_plugin.datasets.clips import find_clips
from lorat_plugin.datasets.got10k import read_list
from lorat_plugin.datasets.index import IndexedDataset, clean, index_dataset
from lorat_plugin.datasets.lmdb_build import build_lmdb
from lorat_plugin.datasets.registry import dataset_root, make_reader, open_store
from lorat_plugin.digests import read_record
from lorat_plugin.engines.graphs import cut_crops
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import read_attributes
from lorat_plugin.evaluation.provenance import _compare as compare_settings
from lorat_plugin.evaluation.registry import open_benchmark
from lorat_plugin.evaluation.results import notes_folder, read_confidences, result_files
from lorat_plugin.evaluation.scoring import score_tracker
from lorat_plugin.evaluation.submit import check_archive, write_archive
from lorat_plugin.harness.pytracking import read_settings
from lorat_plugin.harness.vot_tools.run import open_workspace
from lorat_plugin.harness.vot_tools.sequences import find_sequences
from lorat_plugin.harness.vot_tools.stacks import local_stack, parse_stack
from lorat_plugin.images import read_image
from lorat_plugin.interchange import FORMATS, Row, Tracks, VideoInfo, read_tracks, write_tracks
from lorat_plugin.score_rows import MEASURES
from lorat_plugin.training.config import TrainConfig, load_config
from lorat_plugin.training.journal import read_journal
from lorat_plugin.training.state import changed_settings, read_state, save_tensors
from lorat_plugin.variants import Variant
from lorat_plugin.video.demo_clips import boxed_frames
from lorat_plugin.video.masks import Segmenter
from lorat_plugin.video.source import open_source
from tests.fuzz.mutations import cut_short, mutate
from tests.helpers import datasets
from tests.helpers.sequences import square_sequence, write_clip, write_frames

VARIANT = Variant(
    "fuzzed", "vit_small_patch14_dinov2", dim=16, depth=1, heads=2, ffn="mlp", ffn_dim=32, template_size=28,
    search_size=42, search_area_factor=4.0, lora_rank=2, lora_alpha=2.0,
)  # fmt: skip


class ReaderEnded(Exception):
    """A process that read a file ended by a signal, or by an error other than InputError."""


@dataclass
class Reader:
    """A file and what reads it. `forks`: a C library reads it, and may end the process. `cost`: tests try fewer inputs.

    LMDB checks no page that it reads: only a file that is cut short can be told, and other damage is not tried.
    """

    path: Path
    read: Callable[[], object]
    forks: bool = False
    damage: Callable[[bytes, random.Random], bytes] = mutate
    cost: int = 1

    def __post_init__(self) -> None:
        self.good = self.path.read_bytes()

    def attempt(self, data: bytes) -> bool:
        """Read `data` in place of the good file: whether it was taken. What is no InputError is raised."""
        self.path.write_bytes(data)
        try:
            if self.forks:
                self._read_in_a_child()
            else:
                self.read()
        except InputError as error:
            assert len(str(error)) > 10 and not str(error).startswith(("'", "<")), error
            return False
        finally:
            self.path.write_bytes(self.good)
        return True

    def _read_in_a_child(self) -> None:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            code = 1
            try:
                self.read()
                code = 0
            except InputError as error:
                code = 2
                os.write(writing, str(error).encode()[:1000])
            except BaseException:
                os.write(writing, traceback.format_exc().encode()[-1000:])
            finally:
                os._exit(code)
        os.close(writing)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with os.fdopen(reading, "rb") as stream:
            told = stream.read().decode(errors="replace")
        if status == 2:
            raise InputError(told)
        if status:
            raise ReaderEnded(f"the reading process ended with {status}: {told[-300:]}")


def make_readers(root: Path) -> dict[str, Reader]:
    """All readers, their files below `root`."""
    text = (_configs, _sequences, _datasets, _benchmarks, _calibration, _results, _tracks)
    parts = (_weights, _hub, _sams, *text, _media)
    return {name: reader for make in parts for name, reader in make(root / make.__name__)}


def _weights(root: Path) -> Iterator[tuple[str, Reader]]:
    torch.manual_seed(0)
    network = create_model(VARIANT, backbone="random")
    merged = save_checkpoint(network, root / "merged.safetensors")
    yield "weights merged", Reader(merged, lambda: load_checkpoint(merged))
    yield "weights merged, variant named", Reader(merged, lambda: load_checkpoint(merged, VARIANT))
    pickled = root / "merged.pth"
    torch.save({"model": network.state_dict()}, pickled)
    yield "weights torch", Reader(pickled, lambda: load_checkpoint(pickled, VARIANT))
    backbone = root / "backbone.pth"
    names = ("patch_embed", "blocks", "norm", "cls_token", "pos_embed", "mask_token")
    tensors = {n: t for n, t in network.state_dict().items() if n.startswith(names)}
    torch.save({**tensors, "cls_token": torch.zeros(1, 1, 16), "pos_embed": torch.zeros(1, 1 + 37**2, 16)}, backbone)
    yield "backbone torch", Reader(backbone, lambda: backbone_tensors(VARIANT, str(backbone)))
    adapted = inject(network)
    for name in ("official", "official-full"):
        file = save_checkpoint(adapted, root / f"{name}.safetensors", name)
        yield f"weights {name}", Reader(file, lambda f=file: load_checkpoint(f, VARIANT, backbone))
    folder = save_checkpoint(adapted, root / "peft", "peft")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        yield f"peft {name}", Reader(folder / name, lambda: load_checkpoint(folder, None, backbone))
    state = root / "state.safetensors"
    config = TrainConfig(variant="lorat_tiny")
    save_tensors(state, {"weight.head.x": torch.ones(2)}, {"steps_done": 3}, config)
    yield "training state", Reader(state, lambda: changed_settings(read_state(state)[2], config))


def _hub(root: Path) -> Iterator[tuple[str, Reader]]:
    torch.manual_seed(0)
    folder = save_pretrained(create_model(VARIANT, backbone="random"), root / "tracker")
    for name in (HUB_CONFIG, HUB_WEIGHTS):
        yield f"hub {name}", Reader(folder / name, lambda: load_checkpoint(folder), cost=4)
    scores = root / "scores.json"
    row = dict.fromkeys(MEASURES, 0.5) | {"tracker": "LoRAT", "benchmark": "otb", "protocol": "stark", "frames": 7}
    scores.write_text(json.dumps([row | {"success_curve": [1.0, 0.5]}, row | {"auc": None, "fps": 30.5}]))
    yield "hub scores", Reader(scores, lambda: model_card(VARIANT, "fuzzed", read_scores([scores]), "mit"))


def _sams(root: Path) -> Iterator[tuple[str, Reader]]:
    if not find_spec("transformers"):
        return
    from tests.video.test_masks import small_model

    root.mkdir()
    own = root / "mobile_sam.pt"
    with np.load(Path(__file__).parents[1] / "golden" / "masks" / "mobile_sam.npz") as data:  # the true file's names
        shapes = [[int(side) for side in text.split("x") if side] for text in data["shapes"].tolist()]
        torch.save({n: torch.zeros(()).expand(s) for n, s in zip(data["names"].tolist(), shapes, strict=True)}, own)
    yield "mobile_sam.pt", Reader(own, lambda: Segmenter.from_pretrained(str(own), "cpu"), cost=15)
    small_model("Sam").save_pretrained(root / "sam")
    for name in ("config.json", "model.safetensors"):
        file = root / "sam" / name
        yield f"sam {name}", Reader(file, lambda: Segmenter.from_pretrained(str(root / "sam"), "cpu"), cost=4)


def _configs(root: Path) -> Iterator[tuple[str, Reader]]:
    root.mkdir()
    variant = root / "variant.json"
    variant.write_text(VARIANT.to_json())
    yield "variant", Reader(variant, lambda: Variant.from_json(variant.read_text(errors="replace")))
    recipe = root / "recipe.yaml"
    TrainConfig(variant="lorat_tiny", clips="clips", datasets=("lasot", "got10k:x"), targets=("q",)).save(recipe)
    yield "recipe", Reader(recipe, lambda: load_config(str(recipe)))
    settings = root / "settings.yaml"
    settings.write_text("model: lorat_tiny\nweights: null\ndevice: cpu\nabsent_below: 0.5\n")
    yield "pytracking settings", Reader(settings, lambda: read_settings(settings))
    user = root / "config.yaml"
    user.write_text(f"data: {{lasot: {root}, got10k: /data}}\n")
    os.environ["LORAT_CONFIG"] = str(user)
    yield "user's settings", Reader(user, lambda: dataset_root(make_reader("lasot")))
    stack = root / "stack.yaml"
    stack.write_text(local_stack("supervised"))
    yield "vot stack", Reader(stack, lambda: parse_stack(stack.read_text(errors="replace"), "stack"))
    home = root / "workspace"
    (home / "sequences").mkdir(parents=True)
    (home / "stack.yaml").write_text(local_stack("longterm"))
    (home / "config.yaml").write_text("registry:\n- ./trackers.ini\nstack: stack.yaml\n")
    (home / "trackers.ini").write_text("[LoRAT]\nlabel = LoRAT\nprotocol = python\ncommand = lorat\narg_model = tiny\n")
    (home / "sequences" / "list.txt").write_text("one\ntwo\n")
    for name in ("stack.yaml", "config.yaml", "trackers.ini", "sequences/list.txt"):
        yield f"vot {name}", Reader(home / name, lambda: open_workspace(home).sequences)
    journal = root / "log.jsonl"
    journal.write_text('{"step": 10, "loss": 1.5}\n{"step": 20, "loss": 1.25, "iou": 0.5}\n')
    yield "journal", Reader(journal, lambda: read_journal(journal))
    run = root / "run.json"
    run.write_text('{"model": "lorat_tiny", "frames": 7}')
    yield "run.json compared", Reader(run, lambda: compare_settings(run, {"model": "lorat_tiny"}))
    yield "run.json shown", Reader(run, lambda: read_record(root / "run.json", "delete it"))


def _sequences(root: Path) -> Iterator[tuple[str, Reader]]:
    for name in ("boxes", "regions"):
        write_clip(root / name)
    clip, made = root / "boxes" / "groundtruth.txt", root / "regions"
    yield "clip", Reader(clip, lambda: find_clips(root / "boxes"))
    yield "vot clip", Reader(clip, lambda: find_sequences(root / "boxes"))
    (made / "sequence").write_text("name=regions\nchannels.color=%08d.jpg\n")
    (made / "groundtruth.txt").write_text("1,2,3,4\n0\nm1,2,3,2,1,2,1,2\n1,1,5,1,5,5,1,5\n1,2,3,4\n9,8,7,6\n")
    yield "regions", Reader(made / "groundtruth.txt", lambda: find_sequences(made))
    write_frames(root / "masks", square_sequence(2)[0])
    write_frames(root / "masks" / "mask", [np.zeros((90, 120, 3), np.uint8)] * 2, suffix=".png")
    from PIL import Image

    for file in (root / "masks" / "mask").iterdir():
        Image.fromarray(np.eye(90, 120, dtype=np.uint8)).save(file)
    yield "mask image", Reader(file, lambda: find_sequences(root / "masks"))
    listed = root / "list.txt"
    listed.write_text("1\n2\nGOT-10k_Train_000001\n")
    yield "split list", Reader(listed, lambda: read_list(listed))


def _datasets(root: Path) -> Iterator[tuple[str, Reader]]:
    def read(name: str, home: Path) -> None:
        store = open_store(home)
        reader = make_reader(name, **datasets.OPTIONS.get(name, {}))
        reader.labels(store)
        for entry in reader.entries(store):
            clean(entry.load())

    def read_index(folder: Path) -> None:
        dataset = IndexedDataset("clips", open_store(root / "clips"), folder)
        for i in range(len(dataset)):
            dataset.frame(dataset[i], 0)

    for name, write in datasets.WRITERS.items():
        home = write(root / name)
        files = [p for p in sorted(home.rglob("*")) if p.suffix in (".txt", ".json", ".label")]
        for kind in sorted({p.name if name != "trackingnet" else "anno" for p in files}):
            file = next(p for p in files if kind in (p.name, p.parent.name))
            yield f"{name} {kind}", Reader(file, lambda n=name, h=home: read(n, h))
    (root / "trackingnet" / "seq_list.json").write_text(json.dumps([[0, "a_1"], [2, "c_2"]]))
    yield (
        "trackingnet list",
        Reader(root / "trackingnet" / "seq_list.json", lambda: read("trackingnet", root / "trackingnet")),
    )
    build_lmdb("got10k", root / "got10k", root / "lmdb")
    data = root / "lmdb" / "data.mdb"
    yield "lmdb cut short", Reader(data, lambda: read("got10k", root / "lmdb"), forks=True, damage=cut_short)
    os.environ["LORAT_CACHE"] = str(root / "cache")
    index = root / "index"
    index_dataset(make_reader("clips"), open_store(root / "clips"), root / "clips").folder.rename(index)
    for file in sorted(index.iterdir()):
        yield f"index {file.name}", Reader(file, lambda: read_index(index))


def _benchmarks(root: Path) -> Iterator[tuple[str, Reader]]:
    names = ("airplane-1", "dog-7")
    cases = {  # name: writer of its folder, where its annotations lie, subset, sequences
        "got10k": (datasets.write_got10k_test, "test", "test", None),
        "trackingnet": (datasets.write_trackingnet_test, "TEST/anno", None, None),
        "vot": (datasets.write_vot, "mask", None, None),
        "lasot": (lambda home: datasets.write_lasot(home, names, (3, 4)), "airplane", None, names),
        "otb": (datasets.write_otb, "Boy", "2015", ["Boy"]),
        "nfs": (datasets.write_nfs, "cup/30", None, None),
    }
    for name, (write, below, subset, chosen) in cases.items():
        if name in ("otb", "nfs") and not find_spec("got10k"):
            continue
        home = write(root / name)
        for file in {f.name: f for f in sorted((home / below).rglob("*.txt"))}.values():
            read = partial(open_benchmark, name, home, subset, chosen)
            yield f"benchmark {name} {file.name}", Reader(file, lambda r=read: list(r().sequences), cost=3)
    datasets.write_got10k_val(root / "val")
    cover = next((root / "val").rglob("groundtruth.txt")).with_name("cover.label")
    cover.write_text("8\n" * 7)
    yield "benchmark cover.label", Reader(cover, lambda: open_benchmark("got10k", root / "val", "val"))
    listed, flags = root / "attributes.csv", root / "flags" / "cat-1.txt"
    listed.write_text("sequence,attributes\ncat-1,Rotation;Motion Blur\n")
    flags.parent.mkdir()
    flags.write_text(",".join("01000000000001") + "\n")
    yield "attributes", Reader(listed, lambda: read_attributes(listed))
    yield "attributes in a folder", Reader(flags, lambda: read_attributes(flags.parent))


def _calibration(root: Path) -> Iterator[tuple[str, Reader]]:
    torch.manual_seed(0)
    network = create_model(VARIANT, backbone="random").eval()
    write_clip(root / "one")
    for file in ("groundtruth.txt", "00000002.jpg"):
        path = root / "one" / file
        yield (
            f"calibration {file}",
            Reader(path, lambda: list(cut_crops(network, boxed_frames(root, 4))), cost=4),
        )


def _results(root: Path) -> Iterator[tuple[str, Reader]]:
    datasets.write_clips(root / "clips")
    benchmark = open_benchmark("clips", root / "clips")
    files = result_files(benchmark, root / "results", "LoRAT")
    for sequence in benchmark.sequences:
        files.write(sequence.name, [sequence.boxes], np.full((len(sequence), 1), 0.02))
    name = benchmark.sequences[0].name

    def score() -> None:
        score_tracker(benchmark, files)
        files.read_times(name)

    yield "result boxes", Reader(files.boxes_path(name), score)
    yield "result times", Reader(files.times_path(name), score)
    notes = notes_folder(benchmark, root / "results", "LoRAT")
    (notes / "scores").mkdir(parents=True)
    scores = notes / "scores" / f"{name}.txt"
    np.savetxt(scores, np.ones(7))
    yield "result scores", Reader(scores, lambda: read_confidences(notes, benchmark.sequences[0]))
    datasets.write_got10k_test(root / "got10k")
    tests = open_benchmark("got10k", root / "got10k", subset="test")
    entries = result_files(tests, root / "results", "LoRAT")
    boxes = np.tile(tests.sequences[0].boxes, (len(tests.sequences[0]), 1))
    entries.write(tests.sequences[0].name, [boxes], np.full((len(boxes), 1), 0.02))
    archive = root / "archive.zip"
    write_archive(archive, "got10k", tests, entries, partial=True)
    yield "archive", Reader(archive, lambda: check_archive(archive, "got10k", tests, partial=True))
    plain = root / "plain.zip"
    with zipfile.ZipFile(archive) as packed, zipfile.ZipFile(plain, "w") as stored:
        for entry in packed.namelist():
            stored.writestr(entry, packed.read(entry))
    yield "archive, stored", Reader(plain, lambda: check_archive(plain, "got10k", tests, partial=True))


def _tracks(root: Path) -> Iterator[tuple[str, Reader]]:
    root.mkdir()
    video = VideoInfo("clip", 120, 90, range(4))
    rows = [Row(i, id, (10.0 + i, 20.5, 30.0, 15.25), 0.9, f"label {id}") for i in range(4) for id in (1, 2)]
    for name, form in FORMATS.items():
        write_tracks(Tracks(video, tuple(rows)), root / form.file_name, name)
        place = root / form.file_name
        files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
        for file in {file.suffix: file for file in files}.values():
            yield f"tracks {name} {file.name}", Reader(file, lambda p=place: read_tracks(p, video))
    lines = root / "track.jsonl"
    lines.write_text("".join(f'{{"frame": {i}, "id": 0, "box_xywh": [1, 2, 3, 4], "score": 0.5}}\n' for i in range(4)))
    yield "tracks track.jsonl", Reader(lines, lambda: read_tracks(lines, video))
    gone = root / "gone.xml"
    write_tracks(Tracks(video, (rows[0], rows[-2])), gone, "cvat")  # one object, gone between its two boxes
    write_clip(root / "clip")
    yield "hand boxes", Reader(gone, lambda: read_hand_boxes(root / "clip", gone, 0, 3))


def _media(root: Path) -> Iterator[tuple[str, Reader]]:
    import cv2

    frames, _ = square_sequence(4)
    for suffix in (".jpg", ".png", ".bmp", ".tif", ".webp"):
        write_frames(root / suffix[1:], frames[:1], suffix=suffix)
        file = root / suffix[1:] / f"00000001{suffix}"
        yield f"image {suffix}", Reader(file, lambda f=file: read_image(f), forks=True)
    for suffix, codec in ((".mp4", "mp4v"), (".avi", "MJPG")):
        file = root / f"video{suffix}"
        writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*codec), 25, (120, 90))
        for frame in frames:
            writer.write(frame)
        writer.release()

        def play(file: Path = file) -> int:
            with open_source(file) as source:
                return sum(1 for _ in source)

        yield f"video {suffix}", Reader(file, play, forks=True)
