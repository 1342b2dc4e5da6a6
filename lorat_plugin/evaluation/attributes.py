"""Which challenges a sequence has, such as "Fast Motion": from a benchmark's files or from a file of the user's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lorat_plugin.box_files import parse_flags
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark
from lorat_plugin.files import read_plain_text

LASOT_ATTRIBUTES = (  # in the order of the flags in `<sequence>.txt` of LaSOT's toolkit
    "Illumination Variation",
    "Partial Occlusion",
    "Deformation",
    "Motion Blur",
    "Camera Motion",
    "Rotation",
    "Background Clutter",
    "Viewpoint Change",
    "Scale Variation",
    "Full Occlusion",
    "Fast Motion",
    "Out-of-View",
    "Low Resolution",
    "Aspect Ratio Change",
)
UAV_ATTRIBUTES = (  # in the order of anno/UAV123/att/<sequence>.txt
    "Scale Variation",
    "Aspect Ratio Change",
    "Low Resolution",
    "Fast Motion",
    "Full Occlusion",
    "Partial Occlusion",
    "Out-of-View",
    "Background Clutter",
    "Illumination Variation",
    "Viewpoint Change",
    "Camera Motion",
    "Similar Object",
)


def read_attributes(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Attributes by sequence.

    Args:
        path: a text file with a line `sequence,attribute;attribute` for each sequence; or a folder of `<sequence>.txt`
            with 14 zeros and ones, as the toolkits of LaSOT and its extension have them.
    Raises InputError for a path that is missing, unreadable or holds something else.
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
