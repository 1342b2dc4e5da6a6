"""Images that are no frames: the remedy that the sentence names gives the frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lorat_plugin.errors import InputError
from lorat_plugin.tracking import check_frame

rng = np.random.default_rng(0)
COLOUR = rng.integers(0, 256, (9, 12, 3), np.uint8)
GREY = np.repeat(COLOUR[..., :1], 3, 2)
DEEP = COLOUR.astype(np.uint16) << 8 | 77

IMAGES: dict[str, tuple[Any, np.ndarray]] = {  # what is given, the frame that its remedy makes
    "pil": (Image.fromarray(COLOUR), COLOUR),
    "pil grey": (Image.fromarray(COLOUR[..., 0]), GREY),
    "pil alpha": (Image.fromarray(COLOUR).convert("RGBA"), COLOUR),
    "pil 16 bit": (Image.fromarray(DEEP[..., 0]), GREY),
    "tensor hwc": (torch.from_numpy(COLOUR), COLOUR),
    "tensor chw": (torch.from_numpy(COLOUR).permute(2, 0, 1), COLOUR),
    "tensor chw batch": (torch.from_numpy(COLOUR).permute(2, 0, 1)[None], COLOUR),
    "tensor chw float": (torch.from_numpy(COLOUR).permute(2, 0, 1) / 255, COLOUR),
    "tensor chw float with gradient": ((torch.from_numpy(COLOUR).permute(2, 0, 1) / 255).requires_grad_(), COLOUR),
    "tensor chw half": ((torch.from_numpy(COLOUR).permute(2, 0, 1) / 255).half(), COLOUR),
    "tensor bfloat16 levels": (torch.from_numpy(COLOUR).bfloat16(), COLOUR),
    "tensor 1hw": (torch.from_numpy(COLOUR[..., 0])[None] / 255, GREY),
    "array chw": (COLOUR.transpose(2, 0, 1), COLOUR),
    "array float levels": (COLOUR.astype(np.float64), COLOUR),
    "array float shares": (COLOUR.astype(np.float32) / 255, COLOUR),
    "array int64": (COLOUR.astype(np.int64), COLOUR),
    "array 16 bit": (DEEP, COLOUR),
    "array grey": (COLOUR[..., 0], GREY),
    "array grey channel": (COLOUR[..., :1], GREY),
    "array rgba": (np.dstack([COLOUR, COLOUR[..., 0]]), COLOUR),
    "array rgba chw 16 bit": (np.dstack([DEEP, DEEP[..., 0]]).transpose(2, 0, 1), COLOUR),
    "array batch": (COLOUR[None], COLOUR),
    "array bool": (COLOUR > 127, (COLOUR > 127) * np.uint8(255)),
}


def refusal(image: Any) -> str:
    with pytest.raises(InputError, match=r"^a frame must be an \(H, W, 3\) uint8 RGB array; got ") as told:
        check_frame(image)
    return str(told.value)


@pytest.mark.parametrize("name", IMAGES)
def test_the_expression_that_a_refusal_names_makes_the_frame(name: str) -> None:
    image, wanted = IMAGES[name]
    expression = refusal(image).rpartition(": give ")[2]
    made = check_frame(eval(expression, {"frame": image, "np": np}))
    np.testing.assert_array_equal(made, wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_expression_for_a_tensor_on_a_gpu_makes_the_frame() -> None:
    image = (torch.from_numpy(COLOUR).permute(2, 0, 1) / 255).cuda()
    expression = refusal(image).rpartition(": give ")[2]
    np.testing.assert_array_equal(check_frame(eval(expression, {"frame": image, "np": np})), COLOUR)


@pytest.mark.parametrize(
    ("image", "remedy"),
    [
        (None, "got NoneType: the image was not read: check its path"),
        ("frame.jpg", "got str: read an image with lorat_plugin.video.read_image"),
        (COLOUR.tolist(), "got list: read an image"),
        (COLOUR / 127.5 - 1, "its values go from -1 to 1: give levels from 0 to 255"),
        (np.full((4, 4, 3), np.nan), "its values go from nan to nan"),
        (np.stack([COLOUR] * 5), r"ndarray uint8 \(5, 9, 12, 3\): give one image at a time"),
        (np.zeros((9, 12, 7), np.uint8), "give one image at a time, grey or red, green and blue"),
        (COLOUR.astype(complex), "give levels from 0 to 255 as uint8"),
        (torch.zeros(()), r"Tensor torch.float32 \(\): give one image at a time"),
    ],
)
def test_what_no_expression_converts_gets_advice(image: Any, remedy: str) -> None:
    with pytest.raises(InputError, match=remedy):
        check_frame(image)


@pytest.mark.parametrize(
    "view",
    [
        lambda frame: np.ascontiguousarray(frame[..., ::-1])[..., ::-1],
        np.asfortranarray,
        lambda frame: np.pad(frame, ((3, 3), (5, 5), (0, 0)))[3:-3, 5:-5],
        lambda frame: np.broadcast_to(frame, frame.shape),  # read-only
    ],
)
def test_views_of_any_memory_layout_track_as_their_copies_do(
    view: Callable[[np.ndarray], np.ndarray], tiny_network: Any, frames: list[np.ndarray]
) -> None:
    from lorat_plugin import LoRATTracker

    tracker = LoRATTracker(tiny_network, device="cpu", engine="eager")
    found = []
    for change in (np.copy, view):
        tracker.init(change(frames[0]), [30, 20, 16, 16])
        found.append([tracker.update(change(frame)).box for frame in frames[1:3]])
    np.testing.assert_array_equal(found[0], found[1])
