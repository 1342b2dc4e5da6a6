"""Recorded frames, drawn by torch, are the frames that the host renders by the same draws."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
import torch
from numpy.random import Generator

from lorat_plugin.synthetic import rendering
from lorat_plugin.synthetic.material import Material, procedural_photo
from lorat_plugin.synthetic.pairs import ObjectPairs, PatchPairs
from lorat_plugin.synthetic.rendering import Look
from lorat_plugin.training.device.bank import FrameBank
from lorat_plugin.training.device.records import BankedMaterial, FrameRecord, RecordedPairs, Recorder
from lorat_plugin.training.device.scenes import Scenes, degrade, render

LOOKS = {
    "light": Look(gain=(0.8, 1.1, 1.2), gamma=1.3),
    "shadow": Look(shadow=0.5, shadow_angle=0.7),
    "defocus": Look(defocus=1.7),
    "streak": Look(streak=9.0, streak_angle=0.4),
    "shrink": Look(shrink=0.6),
    "noise": Look(noise=8.0),
    "quality": Look(quality=30),
    "high quality": Look(quality=85),
    "everything": Look((0.9, 1.0, 1.1), 0.8, 0.3, 2.0, 0.8, 5.0, 1.0, 0.8, 5.0, 60),
}


@pytest.fixture(scope="module")
def material() -> BankedMaterial:
    """Procedural pictures in a bank on the CPU."""
    banked = BankedMaterial(Material(None, None))
    banked.bank = FrameBank(banked.requests(), 1.0, torch.device("cpu"))
    return banked


def _drawn(frames: list[FrameRecord], material: BankedMaterial) -> list[np.ndarray]:
    scenes = Scenes.of(frames)
    assert material.bank and material.bank.pixels is not None
    pixels, means = render(scenes, material.bank.pixels)
    images = []
    for frame, start, place in zip(frames, scenes.starts, scenes.places, strict=True):
        height, width = frame.shape[:2]
        part = pixels[start : start + height * width].view(height, width, 1).view(torch.uint8)
        images.append(part[..., :3].numpy())
        np.testing.assert_allclose(means[place], images[-1].mean((0, 1)), atol=0.1)
    return images


@pytest.mark.parametrize("kind", [ObjectPairs, PatchPairs])
def test_pairs_are_drawn_as_the_host_renders_them(
    kind: type[ObjectPairs], material: BankedMaterial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "degrade", lambda frame, look, rng: frame)  # compared by itself below
    host = kind(material.material, rendering)
    recorder = Recorder()
    recorder.degrade = lambda frame, look, rng: frame  # type: ignore[method-assign]
    recording = RecordedPairs(host, kind(material, recorder))  # type: ignore[arg-type]
    records, wanted = [], []
    for seed in range(8):
        ours, theirs = Generator(np.random.PCG64(seed)), Generator(np.random.PCG64(seed))
        pair, other = recording.sample(ours), host.sample(theirs)
        assert ours.bit_generator.state == theirs.bit_generator.state
        assert (pair is None) == (other is None)
        if pair and other:
            assert np.array_equal(pair.search_box, other.search_box)
            assert np.array_equal(pair.template_box, other.template_box) and pair.origin == other.origin
            records += [pair.template_frame, pair.search_frame]
            wanted += [other.template_frame, other.search_frame]
    off = [np.abs(a.astype(float) - b).mean() for a, b in zip(_drawn(records, material), wanted, strict=True)]  # type: ignore[arg-type]
    assert len(off) >= 8 and np.median(off) < 1 and max(off) < 5, off


@pytest.mark.parametrize("name", LOOKS)
def test_light_and_optics_are_those_of_the_host(name: str) -> None:
    rng = np.random.default_rng(3)
    frame = cv2.resize(procedural_photo(rng), (320, 240))
    look = LOOKS[name]
    wanted = rendering.degrade(frame, look, np.random.default_rng(5))
    grain = rendering.draw_grain((240, 320), np.random.default_rng(5))
    tensor = torch.from_numpy(frame).permute(2, 0, 1).float()[None].repeat(2, 1, 1, 1)
    plain, made = degrade(tensor, [Look(), look], [(0, 0), grain])
    assert np.array_equal(plain.permute(1, 2, 0), frame)
    off = (made.permute(1, 2, 0).numpy() - wanted.astype(float)).ravel()
    assert np.abs(off).mean() < (2.0 if look.quality else 0.8) and abs(off.mean()) < 0.5, (
        np.abs(off).mean(),
        off.mean(),
    )
    changed = np.abs(frame.astype(float) - wanted).mean()
    assert changed > 1.2 * np.abs(off).mean()


def test_every_field_of_a_look_is_compared() -> None:
    plain = Look()
    touched = {
        f.name for look in LOOKS.values() for f in fields(look) if getattr(look, f.name) != getattr(plain, f.name)
    }
    assert touched == {f.name for f in fields(Look)}


def test_frames_of_several_sizes_and_patches_of_photos_are_drawn(material: BankedMaterial) -> None:
    recorder, frames, wanted = Recorder(), [], []
    rng = np.random.default_rng(0)
    for size, corner in (((192, 336), (0, 0)), ((320, 240), (30, 50)), ((192, 336), (440, 310))):
        matrix = np.diag([0.8, 0.8, 1.0])
        frame, canvas = (
            t.view(m.photo(1), matrix, size) for t, m in ((recorder, material), (rendering, material.material))
        )
        pose = rendering.Pose(90.0, 80.0, 70.0, aspect=1.5, angle=0.3, tilt=(0.1, 0.05))
        recorder.draw(frame, recorder.opaque_patch(material.photo(2), *corner), pose)
        rendering.draw(canvas, rendering.opaque_patch(material.material.photo(2), *corner), pose)
        frames.append(recorder.degrade(frame, Look(), rng))
        wanted.append(canvas)
    for made, image in zip(_drawn(frames, material), wanted, strict=True):
        assert made.shape == image.shape and np.abs(made.astype(float) - image).mean() < 0.6


def test_a_record_renders_itself_on_the_host(material: BankedMaterial) -> None:
    host = ObjectPairs(material.material)
    recording = RecordedPairs(host, ObjectPairs(material, Recorder()))  # type: ignore[arg-type]
    pair, other = (source.sample(np.random.default_rng(2)) for source in (recording, host))
    assert pair and other
    assert np.array_equal(pair.search_frame.read(), other.search_frame)  # type: ignore[attr-defined]


def test_material_in_a_bank_travels_to_workers(material: BankedMaterial) -> None:
    sent = pickle.loads(pickle.dumps(material))
    ours, theirs = (ObjectPairs(m, Recorder()).sample(np.random.default_rng(0)) for m in (material, sent))
    assert ours and theirs and np.array_equal(ours.search_box, theirs.search_box)
    again = replace(theirs.search_frame.look)  # type: ignore[attr-defined]
    assert again == ours.search_frame.look  # type: ignore[attr-defined]
