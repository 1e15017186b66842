"""From a draw of the engine to a phantom on its fine grid."""

import dataclasses
from collections.abc import Sequence

from qsmdl.data.engine import Sample, reference_tesla
from qsmdl.errors import InputError
from qsmdl.phantom.abstract.geometric import render_shapes
from qsmdl.phantom.abstract.noise_texture import TextureNoiseParams, add_texture, render_noise_texture
from qsmdl.phantom.anatomy.head import render_head
from qsmdl.phantom.anatomy.label_atlas import LabelAtlas
from qsmdl.phantom.anatomy.label_maps import LabelMapParams, render_label_map
from qsmdl.phantom.anatomy.params import HeadParams
from qsmdl.phantom.drawing.sampling import grid_axes
from qsmdl.phantom.inclusions.blobs import lesion_layers
from qsmdl.phantom.inclusions.overlay import Layer, lay
from qsmdl.phantom.inclusions.trees import vessel_layers
from qsmdl.phantom.tissue.maps import Maps
from qsmdl.scan import Geometry, Phantom


def render_sample(sample: Sample, geometry: Geometry, atlases: Sequence[LabelAtlas] = ()) -> Phantom:
    """A drawn sample on a fine grid: its anatomy, then texture, vessels and lesions on top.

    Raises InputError where the sample is of a label map that is not given.
    """
    phantom = add_texture(_render_anatomy(sample, geometry, atlases), sample.added_texture)
    axes, layers = grid_axes(geometry), list[Layer]()
    has_lesions = sample.lesions is not None and bool(sample.lesions.blobs)
    m0 = float(phantom.m0[phantom.mask].median()) if has_lesions or sample.vessels is not None else 0.0
    if sample.vessels is not None:
        layers += vessel_layers(sample.vessels, axes, phantom.mask, b0_tesla=reference_tesla(sample.protocol), m0=m0)
    if sample.lesions is not None and sample.lesions.blobs:
        layers += lesion_layers(sample.lesions, axes, phantom.mask, labels=phantom.labels, m0=m0)
    lay(Maps(phantom.chi_ppm, phantom.r1_per_s, phantom.r2star_per_s, phantom.m0), phantom.labels, layers, phantom.mask)
    return dataclasses.replace(phantom, params=dataclasses.asdict(sample))


def _render_anatomy(sample: Sample, geometry: Geometry, atlases: Sequence[LabelAtlas]) -> Phantom:
    anatomy = sample.anatomy
    if isinstance(anatomy, HeadParams):
        return render_head(anatomy, geometry, surroundings=False, partial_volume=sample.partial_volume, veins=sample.veins)
    if isinstance(anatomy, TextureNoiseParams):
        return render_noise_texture(anatomy, geometry)
    if isinstance(anatomy, LabelMapParams):
        if not sample.label_map < len(atlases):
            raise InputError(f"The sample is of label map number {sample.label_map}, but {len(atlases)} are given. Pass those it was drawn with.")
        return render_label_map(atlases[sample.label_map], anatomy, geometry)
    return render_shapes(anatomy, geometry)
