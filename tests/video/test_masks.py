"""Masks from boxes: rectangles exactly, SAM and SAM 2 of random weights for what the code around them does."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from lorat_plugin.errors import InputError
from lorat_plugin.video.masks import Segmenter, box_masks, mask_maker
from tests.helpers.sequences import write_clip

transformers = pytest.importorskip("transformers")

SCRIPT = Path(__file__).parents[2] / "integration" / "masks" / "mask_iou.py"
SIZE = 64  # of the small models' input, pixels
PROMPT = {"hidden_size": 32, "image_size": SIZE, "mask_input_channels": 4}
DECODER = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32}


VISION = {
    "hidden_size": 24, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIZE,
    "window_size": 2, "global_attn_indexes": [1], "num_pos_feats": 16, "mlp_dim": 32,
}  # fmt: skip
BACKBONE = {
    "model_type": "sam2_hiera_det_model", "hidden_size": 8, "image_size": [SIZE, SIZE],
    "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
    "num_attention_heads_per_stage": [1, 1, 2, 2], "window_size_per_stage": [4, 4, 4, 4],
    "global_attention_blocks": [3],
}  # fmt: skip
VISION_2 = {
    "model_type": "sam2_vision_model", "backbone_config": BACKBONE, "backbone_channel_list": [64, 32, 16, 8],
    "fpn_hidden_size": 32, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
}  # fmt: skip


def small_model(kind: str) -> torch.nn.Module:
    """A small model of random weights; "Sam2Video" is how the hub stores SAM 2."""
    more = {"SamHQ": {"vit_dim": VISION["hidden_size"]}}.get(kind, {})
    config = getattr(transformers, f"{kind}Config")(
        vision_config=VISION_2 if "2" in kind else VISION,
        prompt_encoder_config=PROMPT,
        mask_decoder_config=DECODER | more,
        **({"memory_attention_hidden_size": 32} if kind == "Sam2Video" else {}),
    )
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}Model")(config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A SAM of random weights, as transformers stores it."""
    small_model("Sam").save_pretrained(tmp_path / "sam")
    return tmp_path / "sam"


class CornerSam(torch.nn.Module):
    """Answers with the prompt itself: a mask of exactly the box in the crop, or with nothing."""

    def __init__(self, size: int = 256, empty: bool = False) -> None:
        super().__init__()
        self.config = SimpleNamespace(prompt_encoder_config=SimpleNamespace(image_size=size))
        self.empty = empty
        self.batches: list[int] = []

    def forward(self, pixel_values: torch.Tensor, input_boxes: torch.Tensor, multimask_output: bool) -> SimpleNamespace:
        assert not multimask_output and pixel_values.shape[1:] == (
            3,
            *(self.config.prompt_encoder_config.image_size,) * 2,
        )
        self.batches.append(len(pixel_values))
        side = torch.arange(pixel_values.shape[-1] // 4) * 4 + 2.0  # SAM's own grid: a quarter of the input
        x1, y1, x2, y2 = input_boxes[:, 0, :, None, None].unbind(1)
        x, y = side[None, None, :], side[None, :, None]
        inside = torch.minimum(torch.minimum(x - x1, x2 - x), torch.minimum(y - y1, y2 - y))
        return SimpleNamespace(
            pred_masks=torch.full_like(inside, -1)[:, None, None] if self.empty else inside[:, None, None]
        )


def test_rectangles_are_the_pixels_whose_centres_a_box_covers() -> None:
    boxes = [[2, 1, 3, 2], [1.4, 0.6, 2, 2], [-5, -5, 7, 6], [3.2, 2.2, 0.1, 0.1], [20, 0, 5, 5], [1, 1, 0, 4]]
    masks = box_masks([*boxes, [np.nan, 0, 5, 5], [0, np.inf, 5, 5]], (5, 8))
    assert masks.shape == (8, 5, 8) and masks.dtype == bool
    found = [(rows.min(), columns.min(), len(rows)) if len(rows) else None for rows, columns in map(np.nonzero, masks)]
    assert found == [(1, 2, 6), (1, 1, 4), (0, 0, 2), (2, 3, 1), None, None, None, None]
    assert box_masks(np.empty((0, 4)), (5, 8)).shape == (0, 5, 8)


sides = st.floats(-60, 160)


@given(st.lists(st.tuples(sides, sides, st.floats(0, 90), st.floats(0, 90)), max_size=4))
def test_a_box_with_area_in_the_frame_has_a_mask_of_about_its_area(boxes: list[tuple[float, ...]]) -> None:
    masks = box_masks(boxes, (70, 100))
    for (x, y, w, h), mask in zip(boxes, masks, strict=True):
        wide, high = (max(0, min(a + b, most) - max(a, 0)) for a, b, most in ((x, w, 100), (y, h, 70)))
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert mask.any() == (wide > 0 and high > 0)
        assert not mask.any() or (abs(columns - wide) <= 1 and abs(rows - high) <= 1 and mask.sum() == rows * columns)


@given(st.lists(st.tuples(st.floats(-40, 120), st.floats(-40, 90), st.floats(0, 90), st.floats(0, 90)), max_size=4))
@example([(0.0, 0.0, 2e-311, 2e-311)])  # whose area is 0 in floating point
def test_a_mask_is_pasted_where_its_box_is(boxes: list[tuple[float, ...]]) -> None:
    """A SAM that returns its prompt gives back the rectangle, up to its grid and the crop's side."""
    frame = np.zeros((70, 100, 3), np.uint8)
    masks, rectangles = Segmenter(CornerSam(), "cpu").segment(frame, boxes), box_masks(boxes, (70, 100))
    assert masks.shape == rectangles.shape
    for (_, _, w, h), mask, rectangle in zip(boxes, masks, rectangles, strict=True):
        assert mask.any() == rectangle.any()
        if rectangle.any() and min(w, h) > 8 and max(w, h) < 4 * min(w, h):
            height, width = rectangle.any(1).sum(), rectangle.any(0).sum()
            assert (mask ^ rectangle).sum() <= 4 * (height + width)  # a pixel or two along the edges


def test_all_boxes_of_a_frame_go_in_one_batch_and_nothing_found_is_the_rectangle() -> None:
    frame = np.zeros((70, 100, 3), np.uint8)
    boxes = [[10, 10, 20, 20], [40, 30, 30, 15], [np.nan, 0, 5, 5], [200, 0, 5, 5], [60, 5, 9, 9]]
    model = CornerSam(empty=True)
    masks = Segmenter(model, "cpu").segment(frame, boxes)
    assert model.batches == [3]
    np.testing.assert_array_equal(masks, box_masks(boxes, (70, 100)))
    assert Segmenter(model, "cpu").segment(frame, np.empty((0, 4))).shape == (0, 70, 100) and model.batches == [3]
    with pytest.raises(InputError, match="uint8"):
        Segmenter(model, "cpu").segment(frame / 255, boxes)


@pytest.mark.parametrize("kind", ["Sam", "SamHQ", "Sam2", "Sam2Video"])
def test_a_stored_model_is_loaded_and_each_box_is_segmented_as_if_alone(
    kind: str, tmp_path: Path, frames: list[np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "model"
    small_model(kind).save_pretrained(folder)
    segmenter = Segmenter.from_pretrained(str(folder), "cpu")
    assert segmenter.size == SIZE
    boxes = [[30, 20, 16, 16], [60.5, 40, 30, 20], [-5, -5, 40, 30]]
    together = segmenter.segment(frames[0], boxes)
    alone = np.concatenate([segmenter.segment(frames[0], [box]) for box in boxes])
    assert together.shape == (3, 90, 120) and together.any(axis=(1, 2)).all()
    assert (together ^ alone).mean() < 1e-3  # batches may differ in the last bits
    assert not caplog.records
    np.testing.assert_array_equal(mask_maker(str(folder), "cpu")(frames[0], boxes), together)


@pytest.mark.slow
def test_the_example_measures_masks(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "clips" / "one"
    masks = box_masks(write_clip(home), (90, 120))
    (home / "mask").mkdir()
    for path, mask in zip(sorted(home.glob("*.jpg")), masks, strict=True):
        Image.fromarray(mask).save(home / "mask" / f"{path.stem}.png")  # 1 bit, as in DAVIS' clips
    command = [sys.executable, SCRIPT, tmp_path / "clips", "--masks", folder, "--overlays", tmp_path / "pictures"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scores = [float(cell) for cell in done.stdout.splitlines()[-1].strip("| ").split("|")[1:]]
    assert scores[2] == 1 and all(0 <= score <= 1 for score in scores)
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["one.png"]


def test_weights_that_lack_a_part_are_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "no_mask_embed" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="1 weights are missing"):
        Segmenter.from_pretrained(str(folder), "cpu")


def made_weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Weights that depend on nothing but names and shapes, of a scale that keeps every layer awake."""
    rng, made = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape)
        if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            values = 1 + 0.2 * np.tanh(values)
        elif len(shape) < 2 or "attention_biases" in name:
            values = 0.1 * values
        elif "embed" not in name and "token" not in name and "matrix" not in name:
            values = values / np.sqrt(np.prod(shape[1:]))
        made[name] = torch.from_numpy(np.asarray(values, np.float32))
    return made


@pytest.mark.slow
def test_mobile_sam_is_what_its_own_code_computes(golden: Path, tmp_path: Path) -> None:
    """Names and shapes are those of the true checkpoint, the numbers those of MobileSAM's code."""
    with np.load(golden / "masks" / "mobile_sam.npz") as data:
        wanted = dict(data)
    shapes = [[int(side) for side in text.split("x") if side] for text in wanted["shapes"].tolist()]
    torch.save(made_weights(dict(zip(wanted["names"].tolist(), shapes, strict=True))), tmp_path / "mobile_sam.pt")
    segmenter = Segmenter.from_pretrained(str(tmp_path / "mobile_sam.pt"), "cpu")
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 3, 1024, 1024), np.float32))
    with torch.inference_mode():
        embedding = segmenter.model.get_image_embeddings(x)
        prompt = torch.tensor([[[300.0, 310, 700, 820]]])
        answer = segmenter.model(image_embeddings=embedding, input_boxes=prompt, multimask_output=False)
    np.testing.assert_allclose(embedding[0, ::16, ::8, ::8], wanted["embedding"], atol=1e-4)
    np.testing.assert_allclose(answer.pred_masks[0, 0, 0, ::16, ::16], wanted["logits"], atol=1e-3)
    np.testing.assert_allclose(answer.iou_scores[0, 0], wanted["iou"], atol=1e-3)


def test_models_that_cannot_be_had_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "sam.pt").write_bytes(b"not a checkpoint")
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    for name, words in {
        "sam": "facebook/sam-vit-base",
        "nowhere/nothing": "nowhere/nothing",
        str(tmp_path / "bert"): "is a bert, not one of sam",
        str(tmp_path): "give a folder",
        str(tmp_path / "sam.pt"): "cannot be read as a checkpoint",
        str(tmp_path / "other.pt"): "is no MobileSAM checkpoint",
    }.items():
        with pytest.raises(InputError, match=words) as caught:
            Segmenter.from_pretrained(name, "cpu")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="device 'nothing'"):
        Segmenter.from_pretrained("sam", "nothing")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'lorat_plugin\[masks\]'"):
        Segmenter.from_pretrained("sam", "cpu")


def test_rectangles_by_name_come_with_one_line(frames: list[np.ndarray], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        maker = mask_maker("box")
    assert [record.message for record in caplog.records] == [
        "masks are the boxes' rectangles: name a SAM model for the object's shape"
    ]
    assert maker(frames[0], [[30, 20, 16, 16]]).sum() == 256
