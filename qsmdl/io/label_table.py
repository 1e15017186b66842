"""Label tables: which tissue the numbers of a segmentation mean.

A table is a YAML or JSON file with one entry for each number: a tissue's name, or a mapping with ranges of its own. With `extends` it starts from a
built-in table, whose entries it adds to or replaces:

    extends: freesurfer
    24: csf
    28: {tissue: thalamus, chi_ppm: [0.0, 0.06]}
    99: {name: cyst, chi_ppm: [-0.02, 0.02], r1_per_s: [0.2, 0.4], r2star_per_s: [2, 10], m0: [0.9, 1.0]}
    200: outside_brain

Built-in are the numbers of FreeSurferColorLUT (FreeSurfer's aseg, aparc+aseg and wmparc, samseg, SynthSeg; Fischl, NeuroImage 2012;62:774-781; Billot
et al., Med Image Anal 2023;86:102789) and of the QSM challenge 2.0.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.scan import LABELS
from qsmdl.validation import did_you_mean

Range = tuple[float, float]
QUANTITIES = ("chi_ppm", "r1_per_s", "r2star_per_s", "m0")
BACKGROUND, OUTSIDE_BRAIN = "background", "outside_brain"
_NOT_BRAIN = (BACKGROUND, OUTSIDE_BRAIN, "fat", "bone", "air", "muscle")
_LARGEST_CHI_PPM = 20.0
_N_LISTED = 20


@dataclass(frozen=True, slots=True)
class LabelEntry:
    """What one number of a segmentation means.

    tissue: a name of `scan.LABELS`, "background" (air), "outside_brain" (soft tissue of the head) or "" (ranges only); name: how messages call it;
    chi_ppm, r1_per_s, r2star_per_s, m0 (arbitrary units, CSF being 1): ranges [low, high], or one number, that values are drawn from, None for the
    tissue's own; brain: whether it belongs to the brain mask, None for what the tissue says. Without a tissue all four ranges are needed.
    Raises InputError naming the setting.
    """

    tissue: str = ""
    name: str = ""
    chi_ppm: Range | None = None
    r1_per_s: Range | None = None
    r2star_per_s: Range | None = None
    m0: Range | None = None
    brain: bool | None = None

    def __post_init__(self) -> None:
        known = (*LABELS, BACKGROUND, OUTSIDE_BRAIN)
        if self.tissue and self.tissue not in known:
            raise InputError(f"tissue is {self.tissue!r}{did_you_mean(str(self.tissue), known) or '.'} Known are {', '.join(known)}.")
        for quantity in QUANTITIES:
            if (value := getattr(self, quantity)) is not None:
                object.__setattr__(self, quantity, _as_range(quantity, value))
        missing = [quantity for quantity in QUANTITIES if getattr(self, quantity) is None]
        if not self.tissue and missing:
            raise InputError(f"{', '.join(missing)} missing; a label needs a tissue, or ranges of {', '.join(QUANTITIES)}.")
        if self.brain is not None and not isinstance(self.brain, bool):
            raise InputError(f"brain is {self.brain!r}; it must be true or false.")
        if self.tissue == BACKGROUND and (self.brain or len(missing) < len(QUANTITIES)):
            raise InputError("background is air without signal: it takes no ranges and is no part of the brain. Name a tissue instead.")

    @property
    def is_brain(self) -> bool:
        """Whether the label belongs to the brain mask."""
        return self.tissue not in _NOT_BRAIN if self.brain is None else self.brain


LabelTable = Mapping[int, LabelEntry]


def _as_range(name: str, value: Any) -> Range:
    ends = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(ends) != 2 or any(isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in ends) or ends[0] > ends[1]:
        raise InputError(f"{name} is {value!r}; it must be a number or a range [low, high] of finite numbers with low <= high.")
    if name == "chi_ppm" and max(abs(v) for v in ends) > _LARGEST_CHI_PPM:
        raise InputError(f"chi_ppm is {value!r}; tissue, bone and air lie within {_LARGEST_CHI_PPM:g} ppm. Was it given in ppb?")
    if name != "chi_ppm" and ends[0] < 0:
        raise InputError(f"{name} is {value!r}; relaxation rates and proton densities must not be negative.")
    return float(ends[0]), float(ends[1])


def _freesurfer() -> dict[int, LabelEntry]:
    tissues: dict[str, Iterable[int]] = {
        BACKGROUND: (0,),
        # Exteriors, extracerebral tissue, samseg's artery, mucosa, muscles, skin and optic nerve.
        OUTSIDE_BRAIN: (1, 6, 40, 45, 258, 902, 907, 908, 909, 911, 930),
        "bone": (165, 915, 916),
        # White matter with its crowns, cerebellar white matter, brain stem and its parts, spinal cord, hypointensities, optic chiasm, callosum.
        "white_matter": (
            2, 41, 34, 66, 7, 46, 16, 126, 170, 173, 174, 175, 178, 267, 77, 78, 79, 85, 192, 250, 251, 252, 253, 254, 255, 1004, 2004,
        ),
        # Cortex, cerebellar cortex and vermis, hippocampus, amygdala, insula, operculum, accumbens, non-WM hypointensities.
        "grey_matter": (3, 42, 8, 47, 172, 183, 184, 17, 53, 18, 54, 19, 55, 20, 56, 26, 58, 80, 81, 82),
        # Ventricles, CSF, choroid plexus; samseg's vein stands for CSF in other segmentations.
        "csf": (4, 43, 5, 44, 14, 15, 72, 75, 76, 24, 31, 63, 257, 914),
        # The ventral diencephalon holds subthalamic and hypothalamic nuclei, cerebral peduncle and red nucleus in one: nearest is the thalamus.
        "thalamus": (9, 10, 48, 49, 28, 60),
        "caudate": (11, 50),
        "putamen": (12, 51),
        "globus_pallidus": (13, 52),
        "substantia_nigra": (27, 59),
        "blood": (30, 62),
    }
    numbers = {number: tissue for tissue, members in tissues.items() for number in members}
    # aparc (DKT and Desikan-Killiany), a2009s, samseg; wmparc.
    cortex = (*range(1000, 1036), *range(2000, 2036), *range(11100, 11176), *range(12100, 12176), 11300, 12300)
    white = (*range(3000, 3036), *range(4000, 4036), 5001, 5002)
    numbers = dict.fromkeys(cortex, "grey_matter") | dict.fromkeys(white, "white_matter") | numbers
    # What the values of lesions are, nobody knows beforehand.
    lesion = LabelEntry("white_matter", "lesion", chi_ppm=(-0.05, 0.15), r1_per_s=(0.3, 0.8), r2star_per_s=(10.0, 80.0))
    own = {25: lesion, 57: lesion, 262: LabelEntry("blood", "sinus", brain=False)}
    return {number: LabelEntry(tissue, tissue) for number, tissue in sorted(numbers.items())} | own


BUILT_IN: Mapping[str, LabelTable] = {
    "freesurfer": _freesurfer(),
    "rc2": {0: LabelEntry(BACKGROUND, BACKGROUND)} | {number: LabelEntry(tissue, tissue) for tissue, number in LABELS.items()},
}
"""Tables by name."""


def _built_in(name: str) -> LabelTable:
    if name not in BUILT_IN:
        raise InputError(f"There is no built-in label table {name!r}{did_you_mean(name, BUILT_IN) or '.'} Known are {', '.join(BUILT_IN)}.")
    return BUILT_IN[name]


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key may not occur twice (the format forbids it, PyYAML takes the last one)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The node's entries. Raises YAMLError for a repeated key."""
        self.flatten_mapping(node)
        return _unique([(self.construct_object(key, deep=True), self.construct_object(value, deep=True)) for key, value in node.value])


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    keys = [str(key) for key, _ in pairs]
    if repeated := sorted({key for key in keys if keys.count(key) > 1}):
        raise yaml.YAMLError(f"the keys {repeated} occur more than once")
    return dict(pairs)


def _load(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return json.loads(text, object_pairs_hook=_unique)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, TypeError) as error:
        raise InputError(f"The label table {path} could not be read as YAML or JSON: {error}") from error


def _number(path: Path, key: Any) -> int:
    if not isinstance(key, bool) and isinstance(key, int | str) and str(key).strip().isdecimal():
        return int(key)
    raise InputError(f"{path}: {key!r} is no label. Entries are 'number: tissue' or 'number: {{tissue: ..., chi_ppm: [low, high], ...}}'.")


def _settings(number: int, value: Any) -> dict[str, Any]:
    """The settings of a `LabelEntry` from what a file says. Raises InputError for what is none."""
    if isinstance(value, str):
        return {"tissue": value, "name": value}
    if not isinstance(value, Mapping) or not value:
        raise InputError(f"its entry is {value!r}, but must be a tissue's name or a mapping.")
    known = {f.name for f in fields(LabelEntry)}
    if unknown := sorted(str(key) for key in set(value) - known):
        raise InputError(f"it has no setting {unknown[0]!r}{did_you_mean(unknown[0], known) or '.'} It has {', '.join(sorted(known))}.")
    return {"name": str(value.get("tissue", number)), **value}


def _entry(path: Path, number: int, value: Any) -> LabelEntry:
    try:
        return LabelEntry(**_settings(number, value))
    except InputError as error:
        raise InputError(f"{path}, label {number}: {error}") from error


def read_label_table(source: Path | str) -> dict[int, LabelEntry]:
    """A built-in table by its name ("freesurfer", "rc2"), or the table in a YAML or JSON file.

    Raises InputError naming the file and the label: unknown name, unreadable, a key twice, no number, unknown tissue or setting, bad ranges.
    """
    path = Path(source)
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        return dict(_built_in(str(source)))
    content = _load(path)
    if not isinstance(content, dict) or not content:
        raise InputError(f"The label table {path} holds no entries. It needs lines like '10: thalamus'.")
    base = content.pop("extends", None)
    table = {} if base is None else dict(_built_in(str(base)))
    for key, value in content.items():
        number = _number(path, key)
        table[number] = _entry(path, number, value)
    return table


def check_labels_known(labels: Tensor, table: LabelTable, what: str) -> None:
    """Raises InputError, listing them with their numbers of voxels, where labels (integers [x, y, z]) have no entry in the table; `what` names the
    volume.
    """
    numbers, counts = torch.unique(labels, return_counts=True)
    missing = [(n, c) for n, c in zip(numbers.tolist(), counts.tolist(), strict=True) if n not in table]
    if missing:
        missing.sort(key=lambda pair: -pair[1])
        listed = ", ".join(f"{n} ({c} voxel{'s' if c > 1 else ''})" for n, c in missing[:_N_LISTED])
        more = f" and {len(missing) - _N_LISTED} more" if len(missing) > _N_LISTED else ""
        raise InputError(
            f"{what} holds labels without an entry in its table: {listed}{more}. Add them (or 'background' or 'outside_brain' for what is not brain)."
        )
