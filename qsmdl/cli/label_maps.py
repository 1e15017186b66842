"""The user's label maps, read for training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qsmdl.cli.progress import stage
from qsmdl.data.recipe import Recipe
from qsmdl.errors import InputError
from qsmdl.io.label_map import read_label_map
from qsmdl.io.label_table import read_label_table
from qsmdl.io.nifti import nifti_files
from qsmdl.phantom.anatomy.label_atlas import LabelAtlas
from qsmdl.validation import check_settings


@dataclass(frozen=True)
class LabelMaps:
    """The config's `data.label_maps`. folder: of NIfTI segmentations, searched with its sub-folders, or None; table: what the numbers mean,
    "freesurfer", "rc2", or a YAML or JSON file.
    """

    folder: str | None = None
    table: str = "freesurfer"

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "LabelMaps":
        """From plain settings. Raises InputError for those that do not fit."""
        check_settings("data.label_maps", cls, settings)
        return cls(**settings)

    def read(self, *recipes: Recipe) -> tuple[LabelAtlas, ...]:
        """All label maps of the folder, in the order of their names; none where no recipe draws any.

        Raises InputError where a recipe draws label maps but no folder is named or it holds none, and as `read_label_map`.
        """
        if not any(recipe.draws_label_maps for recipe in recipes):
            return ()
        if self.folder is None:
            raise InputError("phantom.engine.kinds draws label maps, but data.label_maps.folder names none. Name one, or set kinds.label_map to 0.")
        files = nifti_files(self.folder)
        if not files:
            raise InputError(f"{self.folder} (data.label_maps.folder) holds no .nii or .nii.gz file. Name the folder of the segmentations.")
        table = read_label_table(self.table)
        with stage(f"Reading {len(files)} label maps"):
            return tuple(LabelAtlas(*read_label_map(path, table), table, path.name) for path in files)
