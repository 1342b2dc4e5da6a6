"""Frames in a bank are the decoded ones; too many of them are refused before they are decoded."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lorat_plugin.crop import mean_colour
from lorat_plugin.datasets.clips import find_clips
from lorat_plugin.errors import InputError
from lorat_plugin.training.device.bank import BankedFiles, FrameBank, Request
from lorat_plugin.training.device.pixels import take
from lorat_plugin.video.source import read_image
from tests.helpers.sequences import write_clip

CPU = torch.device("cpu")


def _frame(bank: FrameBank, key: object) -> np.ndarray:
    frame = bank(key)  # type: ignore[arg-type]
    height, width, channels = frame.shape
    assert bank.pixels is not None
    index = frame.start + torch.arange(height * width).view(1, height, width)
    return take(bank.pixels, index, channels)[0].permute(1, 2, 0).numpy().astype(np.uint8)


def test_frames_come_back_as_they_were_decoded(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        write_clip(tmp_path / name, 3, seed)
    clips = find_clips(tmp_path)
    bank = FrameBank(BankedFiles(clips).requests(), 1.0, CPU)
    for path in (*clips[0].frames, *clips[1].frames):
        wanted = read_image(path)
        assert np.array_equal(_frame(bank, path), wanted)
        np.testing.assert_allclose(bank(path).mean, mean_colour(wanted))
        assert np.array_equal(bank(path).read(), wanted)


def test_rgba_comes_back_with_alpha() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    bank = FrameBank([Request("one", lambda: (7, 5), lambda: image)], 1.0, CPU)
    assert np.array_equal(_frame(bank, "one"), image)


def test_too_many_frames_are_refused_with_their_size() -> None:
    def decode() -> np.ndarray:
        raise AssertionError("nothing is decoded")

    requests = [Request(i, lambda: (4000, 2500), decode) for i in range(3000)]
    sentence = r"the 3,000 frames of this run take about 120 GB decoded, but bank_gb is 64: set bank_gb to as much"
    with pytest.raises(InputError, match=sentence):
        FrameBank(requests, 64.0, CPU)


def test_a_frame_that_cannot_be_decoded_is_named_when_it_is_drawn(tmp_path: Path) -> None:
    write_clip(tmp_path / "a", 3, 0)
    clip = find_clips(tmp_path)[0]
    files = [Path(frame) for frame in clip.frames]
    files[0].write_bytes(b"no image")
    files[1].write_bytes(files[1].read_bytes()[:200])  # its header is whole
    bank = FrameBank(BankedFiles([clip]).requests(), 1.0, CPU)
    for path in list(clip.frames)[:2]:
        with pytest.raises(InputError, match=Path(path).name):
            bank(path)
    assert bank(clip.frames[2]).shape == read_image(clip.frames[2]).shape


def test_a_frame_of_another_size_than_its_header_says_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    cv2.imwrite(str(path), np.zeros((6, 5, 3), np.uint8))
    bank = FrameBank([Request(path, lambda: (9, 9), partial(read_image, path))], 1.0, CPU)
    with pytest.raises(InputError, match=r"x\.png: 5x6 pixels, but its header says 81 in all"):
        bank(path)


def test_a_bank_travels_to_workers_without_its_pixels() -> None:
    bank = FrameBank([Request("one", lambda: (500, 400), _black)], 1.0, CPU)
    sent = pickle.dumps(bank)
    assert len(sent) < 2000 and pickle.loads(sent)("one").shape == (400, 500, 3)


def _black() -> np.ndarray:
    return np.zeros((400, 500, 3), np.uint8)
