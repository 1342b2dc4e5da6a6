"""Data sets that the GOT-10k toolkit's classes read: OTB, UAV123, UAV20L, NfS, DTB70 and TColor128."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lorat_plugin.box_files import read_boxes
from lorat_plugin.errors import InputError, first_line
from lorat_plugin.files import decode_text, read_plain_text
from lorat_plugin.images import IMAGE_NAME

logger = logging.getLogger(__name__)


def toolkit_dataset(name: str, root: Path, subset: str, layout: str) -> Any:
    """The GOT-10k toolkit's data set class for OTB, UAV123, UAV20L, NfS, DTB70 or TColor128, made for a folder
    of the given layout, in words.

    What the toolkit prints goes to the log at debug level. Raises InputError if it is not installed or finds another
    layout.
    """
    try:
        from got10k import datasets
    except ImportError as error:
        raise InputError(f"{name} is read by the GOT-10k toolkit; pip install got10k") from error
    # its check wants more than three entries in the folder, and a good one may have two
    uav123 = type("UAV123", (datasets.UAV123,), {"_check_integrity": lambda *_: None})
    makers: dict[str, Callable[[str], Any]] = {
        "otb": lambda place: datasets.OTB(place, int(subset) if subset.isdecimal() else subset, download=False),
        "uav123": lambda place: uav123(place, "UAV123"),
        "uav20l": lambda place: uav123(place, "UAV20L"),
        "nfs": lambda place: datasets.NfS(place, int(subset)),
        "dtb70": datasets.DTB70,
        "tcolor128": lambda place: datasets.TColor128(place, download=False),
    }
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            dataset = makers[name](str(root))
    except UnicodeDecodeError as error:  # OTB's looks into every file of boxes
        for path in sorted(root.glob("*/groundtruth_rect*.txt")):
            read_plain_text(path)
        raise InputError(f"{root}: a file of boxes is no UTF-8 text ({error}); save it as UTF-8") from error
    except Exception as error:  # it raises bare Exception, IndexError and KeyError
        raise InputError(f"{root}: cannot be read as {name} ({first_line(error)}); wanted {layout}") from error
    logger.debug("%s", printed.getvalue())
    _plain_copies(dataset)
    return dataset


def _plain_copies(dataset: Any) -> None:
    """Let the toolkit read copies of text files that it cannot: it knows neither byte order marks nor CR alone."""
    folder = tempfile.TemporaryDirectory()
    dataset.copies = {}  # copy -> the user's file
    dataset.copies_folder = folder  # goes with the data set
    for files in (dataset.anno_files, getattr(dataset, "range_files", [])):
        for number, file in enumerate(files):
            try:
                data = Path(file).read_bytes()
                text = decode_text(data, file)
            except (OSError, InputError):  # told when the sequence is read
                continue
            if text.encode() != data.replace(b"\r\n", b"\n"):
                copy = Path(folder.name) / f"{len(dataset.copies)}.txt"
                copy.write_text(text, encoding="utf-8")
                dataset.copies[str(copy)] = file
                files[number] = str(copy)


def toolkit_item(dataset: Any, name: str) -> tuple[list[str], np.ndarray]:
    """Frame files and boxes (N, 4) float64 of a sequence, the toolkit's complaints put into words."""
    index = dataset.seq_names.index(name)
    try:
        files, boxes = dataset[index]
        if type(dataset).__name__ == "OTB":  # it takes an empty field for none
            boxes = read_boxes(Path(dataset.anno_files[index]))
        return files, boxes.astype(np.float64)
    except Exception as error:  # a bare assertion for lengths, whatever numpy says for what is no number
        file, folder = dataset.anno_files[index], Path(dataset.seq_dirs[index])
        path = Path(dataset.copies.get(file, file))
        folder = folder / "img" if (folder / "img").is_dir() else folder
        images = sum(bool(IMAGE_NAME.fullmatch(file)) for file in os.listdir(folder)) if folder.is_dir() else 0
        rows = sum(bool(line.strip()) for line in read_plain_text(path).splitlines())
        told = f" ({first_line(error)})" if str(error) else ""
        problem = f"the {rows} rows of {name} do not fit the {images} images in {folder}{told}; restore them"
        if rows == 1 == images:
            problem = f"{name} has one frame, which the toolkit cannot read; leave it out"
        raise InputError(f"{path}: {problem}") from error
