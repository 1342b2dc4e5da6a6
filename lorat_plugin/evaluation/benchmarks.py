"""What trackers are evaluated on: benchmarks by name, lists of sequences with the interface of the GOT-10k toolkit.

Inside, boxes count pixels from 0. Files keep the data set's own count: `Benchmark.origin` is what they add to x and y.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np

from lorat_plugin.box_files import parse_flags
from lorat_plugin.datasets.sequences import VideoSequence, select
from lorat_plugin.errors import InputError
from lorat_plugin.files import read_plain_text

OMITTED = {("otb", "Tiger1", 354): 5}  # benchmark, sequence, frames: first ones that trees of trackers leave out
Layout = Literal["nested", "flat"]  # of result files: as the toolkit's ExperimentGOT10k has them, or its ExperimentOTB


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Sequences to evaluate on, all checked when they were opened.

    `benchmark[i]` and `benchmark["name"]` are (frame files, boxes) as the GOT-10k toolkit has them, boxes as the data
    set counts them; `sequences` holds everything.

    Fields: name, as users write it, such as "lasot"; folder, the toolkit's name of the folder of results, such as
    "LaSOT" or "NfS/30"; layout, of the result files; origin, number of the first pixel in the data set's files, 0 or 1;
    rasterize, whether results are rounded outwards to whole pixels, as LoRAT's own are on this data set; protocol, what
    it is scored by unless another is asked for; subset, such as "val", empty if there is one only; skipped, names of
    sequences that were left out on request.
    """

    name: str
    folder: str
    sequences: tuple[VideoSequence, ...]
    layout: Layout = "flat"
    origin: int = 0
    rasterize: bool = False
    protocol: str = "lorat"
    subset: str = ""
    skipped: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Name, subset and the sequences that were left out, for headings."""
        without = f" without {', '.join(self.skipped)}" if self.skipped else ""
        return f"{self.name} {self.subset}".strip() + without

    @property
    def seq_names(self) -> list[str]:
        """Names of the sequences, in order."""
        return [sequence.name for sequence in self.sequences]

    @property
    def scorable(self) -> bool:
        """Whether there is a box for every frame of every sequence."""
        return all(sequence.scorable for sequence in self.sequences)

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int | str) -> tuple[list[str], np.ndarray]:
        """Frame files and boxes (N, 4) of a sequence; IndexError ends the toolkit's loops."""
        sequence = self.sequence(index) if isinstance(index, str) else self.sequences[index]
        return list(sequence.frames), sequence.boxes + np.array([self.origin, self.origin, 0, 0])

    def sequence(self, name: str) -> VideoSequence:
        """A sequence by its name; KeyError if there is none."""
        for sequence in self.sequences:
            if sequence.name == name:
                return sequence
        raise KeyError(name)


@dataclass(frozen=True)
class Choice:
    """Sequences to open: those called `names`, all if there are none, but not those called `skipped`."""

    names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def of(self, there: Sequence[str], shown: str) -> list[str]:
        """Those of `there` to open. Raises InputError if a name is not there, or none is left."""
        for name in self.skipped:
            if name not in there:
                near = get_close_matches(name, there, 3, 0.5)
                advice = f"did you mean {' or '.join(near)}" if near else f"there are {', '.join(there[:5])} ..."
                raise InputError(f"--skip {name}: no sequence of that name in {shown}; {advice}")
        left = [name for name in select(list(there), self.names, shown) if name not in self.skipped]
        if there and not left:
            raise InputError(f"{shown}: all sequences are left out; skip fewer")
        return left


def frames_omitted(benchmark: str, sequence: VideoSequence) -> int:
    """Number of frames at a sequence's start that pytracking, STARK and official LoRAT leave out of the data set."""
    return OMITTED.get((benchmark, sequence.name, len(sequence)), 0)


def as_trees_start(benchmark: Benchmark) -> Benchmark:
    """The benchmark without the frames that pytracking, STARK and official LoRAT leave out, and have no rows for."""
    sequences = []
    for sequence in benchmark.sequences:
        part = sequence.part(frames_omitted(benchmark.name, sequence), len(sequence))
        sequences.append(replace(part, offset=0, parent=None))
    return replace(benchmark, sequences=tuple(sequences))


LASOT_FLAGS = (  # in the order of the flags in `<sequence>.txt` of LaSOT's toolkit
    "Illumination Variation,Partial Occlusion,Deformation,Motion Blur,Camera Motion,Rotation,Background Clutter,"
    "Viewpoint Change,Scale Variation,Full Occlusion,Fast Motion,Out-of-View,Low Resolution,Aspect Ratio Change"
)
UAV_FLAGS = (  # in the order of anno/UAV123/att/<sequence>.txt
    "Scale Variation,Aspect Ratio Change,Low Resolution,Fast Motion,Full Occlusion,Partial Occlusion,Out-of-View,"
    "Background Clutter,Illumination Variation,Viewpoint Change,Camera Motion,Similar Object"
)
LASOT_ATTRIBUTES, UAV_ATTRIBUTES = (tuple(flags.split(",")) for flags in (LASOT_FLAGS, UAV_FLAGS))


def read_attributes(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Attributes by sequence, from a file of lines `sequence,attribute;attribute`, or a folder of `<sequence>.txt`.

    These hold 14 zeros and ones, as in the toolkits of LaSOT and its extension. Raises InputError for anything else.
    """
    path = Path(path)
    if path.is_dir():
        found = {file.stem: flagged(file, LASOT_ATTRIBUTES) for file in sorted(path.glob("*.txt"))}
    else:
        rows = [line.partition(",") for line in read_plain_text(path).splitlines() if line.strip()]
        if wrong := [name for name, comma, _ in rows if not comma]:
            raise InputError(f"{path}: '{wrong[0]:.40}' has no attributes; write sequence,attribute;attribute")
        found = {
            name.strip(): tuple(part.strip() for part in rest.split(";") if part.strip())
            for name, _, rest in rows
            if name.strip() != "sequence"  # a line of headings
        }
    if not found:
        raise InputError(f"{path}: holds no attributes; give a file of lines sequence,attribute;attribute")
    return found


def flagged(path: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `names` whose zero or one in the file is one; none if there is no file."""
    if not path.is_file():
        return ()
    flags = parse_flags(read_plain_text(path), len(names), str(path), "attribute")
    return tuple(name for name, flag in zip(names, flags, strict=True) if flag)


def add_attributes(benchmark: Benchmark, attributes: Mapping[str, tuple[str, ...]]) -> Benchmark:
    """The benchmark with the attributes of `read_attributes`; sequences that these do not name keep their own.

    Raises InputError if none of the benchmark's sequences is named.
    """
    if not set(attributes) & set(benchmark.seq_names):
        raise InputError(f"none of the attributes is of a sequence of {benchmark.name}; is it the right file?")
    sequences = (replace(s, attributes=attributes.get(s.name, s.attributes)) for s in benchmark.sequences)
    return replace(benchmark, sequences=tuple(sequences))
