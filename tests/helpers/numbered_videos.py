"""Video files whose pictures show their own number, and damage to them."""

from __future__ import annotations

import random
from collections.abc import Collection
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIZE = (64, 96)  # height, width
BITS = 8


def numbered(number: int) -> np.ndarray:
    """(64, 96, 3) uint8 RGB: a red square that moves over noise, and the number as 8 blocks along the bottom."""
    picture = np.random.default_rng(0).integers(60, 120, (*SIZE, 3), np.uint8)
    x, y = 20 + number % 40, 16
    picture[y : y + 16, x : x + 16] = (220, 40, 30)
    for bit in range(BITS):
        picture[48:, 12 * bit : 12 * (bit + 1)] = 255 * (number >> bit & 1)
    return picture


def shown_number(picture: np.ndarray) -> int:
    """The number that the blocks of a picture show."""
    return sum(int(picture[56, 12 * bit + 6].mean() > 127) << bit for bit in range(BITS))


def write_numbered(
    path: Path,
    count: int = 30,
    codec: str = "libx264",
    *,
    rate: int | Fraction = 30,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    sound: float = 0.0,
    videos: int = 1,
) -> Path:
    """Write pictures 0 to `count` - 1, `videos` times, and `sound` seconds of silence."""
    with av.open(str(path), "w", options=container or {}) as file:
        streams = []
        for _ in range(videos):
            stream = file.add_stream(codec, rate=rate)
            stream.height, stream.width = SIZE
            stream.pix_fmt, stream.options = pixels, {"threads": "1", "bf": "0", "g": "5", **(options or {})}
            streams.append(stream)
        packets = []
        if sound:
            silence = file.add_stream("aac", rate=48000, layout="mono")
            for start in range(0, round(48000 * sound), 1024):
                part = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                part.sample_rate, part.pts = 48000, start
                packets += silence.encode(part)
            packets += silence.encode(None)
        for stream in streams:
            for number in range(count):
                packets += stream.encode(av.VideoFrame.from_ndarray(numbered(number), "rgb24"))
            packets += stream.encode(None)
        file.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    return path


def copy_damaged(source: Path, target: Path, bad: Collection[int], mode: str) -> Path:
    """Copy the packets; those of the numbers `bad`, in the order of the file, are damaged: zero, trunc, random."""
    with av.open(str(source)) as file, av.open(str(target), "w") as copy:
        stream = copy.add_stream_from_template(file.streams.video[0])
        for number, packet in enumerate(packet for packet in file.demux(video=0) if packet.size):
            data, draw = bytes(packet), random.Random(1)
            changed = {
                "zero": bytes(len(data)),
                "trunc": data[: max(8, len(data) // 8)],
                "random": data[:4] + draw.randbytes(len(data) - 4),
            }
            made = av.Packet(changed[mode] if number in bad else data)
            made.pts, made.dts, made.duration = packet.pts, packet.dts, packet.duration
            made.time_base, made.is_keyframe, made.stream = packet.time_base, packet.is_keyframe, stream
            copy.mux(made)
    return target
