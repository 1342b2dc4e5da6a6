"""`lorat quantize` prints both runs' scores and how far the runs agree."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from lorat_plugin.cli.main import run


def write_clip(folder, frames):
    folder.mkdir()
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number:04d}.png"), frame[..., ::-1])
    boxes = [(30 + 3 * i, 20 + 2 * i, 16, 16) for i in range(len(frames))]
    np.savetxt(folder / "groundtruth.txt", boxes, fmt="%d", delimiter=",")


@pytest.mark.slow
def test_both_ways(tmp_path, frames, capsys, monkeypatch):
    monkeypatch.setenv("LORAT_CALIBRATION", "restored after the test")
    write_clip(tmp_path / "clip", frames)
    words = ["quantize", "--dataset", f"clips:{tmp_path}", "--calibration", str(tmp_path)]
    assert run(words) == 0
    printed = capsys.readouterr().out
    assert "int8: AUC 0." in printed
    assert run([*words, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert f"mean box IoU between the runs {figures['mean_iou']:.4f}" in " ".join(printed.split())
    assert figures["agreement"]["overall"]["frames"] == len(frames)


def test_frames_that_are_absent(tmp_path, frames, capsys):
    assert run(["quantize", "--dataset", f"clips:{tmp_path / 'absent'}"]) == 2
    assert "absent" in capsys.readouterr().err
