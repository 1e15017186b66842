"""Render drawn lesions as layers (`overlay`): sub-voxel exact, the same in mm on every grid, and for any phantom with a mask."""

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.phantom.drawing.placing import Region
from qsmdl.phantom.drawing.ranges import Triple
from qsmdl.phantom.drawing.sampling import Axes, Lattice, band_noise, seeded
from qsmdl.phantom.drawing.shapes import rotation_matrix
from qsmdl.phantom.inclusions.lesions import Blob, LesionParams, Site
from qsmdl.phantom.inclusions.overlay import Layer, solid_fractions
from qsmdl.phantom.tissue.maps import Tissue
from qsmdl.scan import LABELS

_SITE_LABELS: dict[Site, tuple[int, int]] = {
    "deep": (LABELS["caudate"], LABELS["thalamus"]),
    "cortex": (LABELS["grey_matter"], LABELS["grey_matter"]),
    "csf": (LABELS["csf"], LABELS["csf"]),
}
"""First and last label."""
_LABEL = {"calcification": LABELS["calcification"], "haemorrhage": LABELS["blood"], "microbleed": LABELS["blood"]}
_SIGMAS = 2.0
"""Irregularity of a surface is clamped at so many standard deviations."""
_NOISE_SAMPLES = 16
WHITE_MATTER_M0 = 0.7


def blob_centres(params: LesionParams, axes: Axes, mask: Tensor, labels: Tensor | None = None) -> tuple[Triple, ...]:
    """Where the lesions of a phantom lie, in the mm of three axes; see `lesion_layers`."""
    regions: dict[Site, Region] = {}
    for site in dict.fromkeys(blob.site for blob in params.blobs):
        regions[site] = _region(site, axes, mask, labels)
    return tuple(regions[blob.site].locate(blob.place) for blob in params.blobs)


def _region(site: Site, axes: Axes, mask: Tensor, labels: Tensor | None) -> Region:
    """The part of the mask with the labels of a site; the whole where there is none."""
    if site != "anywhere" and labels is not None:
        first, last = _SITE_LABELS[site]
        chosen = ((labels >= first) & (labels <= last)).logical_and_(mask)
        if bool(chosen.any()):
            return Region.of(chosen, axes)
    return Region.of(mask, axes)


def lesion_layers(params: LesionParams, axes: Axes, mask: Tensor, *, labels: Tensor | None = None, m0: float = WHITE_MATTER_M0) -> list[Layer]:
    """The lesions of a phantom, smallest last, for `lay`; iron-laden nuclei are not among them (`laden_with_iron`).

    axes: positions of the voxels in mm; mask: where lesions may lie, boolean [x, y, z]; labels: of the house (`LABELS`) before vessels and lesions,
    for those that have a site (None: anywhere); m0: proton density of the tissue around, in the units of the maps. Raises InputError for an empty
    mask or a negative m0.
    """
    if not m0 >= 0:
        raise InputError(f"m0 is {m0}; the proton density around lesions must not be negative.")
    layers: list[Layer] = []
    placed = zip(params.blobs, blob_centres(params, axes, mask, labels), strict=True)
    for blob, centre in sorted(placed, key=lambda pair: -pair[0].lobes[0][3]):
        layers += blob_layers(blob, centre, axes, m0)
    return layers


def blob_layers(blob: Blob, centre_mm: Triple, axes: Axes, m0: float) -> list[Layer]:
    """One lesion at a place in mm: one layer, or two with a rim; none where it misses the grid."""
    rough = _SIGMAS * blob.roughness * blob.lobes[0][3]
    reach = max(blob.stretch) * (max((x * x + y * y + z * z) ** 0.5 + r for x, y, z, r in blob.lobes)) + rough
    x, y, z = centre_mm
    insets = (0.0, blob.rim_mm) if blob.rim_mm > 0 else (0.0,)
    found = solid_fractions(
        axes,
        (x - reach, y - reach, z - reach),
        (x + reach, y + reach, z + reach),
        lambda fine: _depth(blob, centre_mm, fine, reach),
        min(lobe[3] for lobe in blob.lobes),
        insets,
    )
    if found is None:
        return []
    box, fractions = found
    chis = (blob.rim_chi_ppm, blob.chi_ppm) if blob.rim_mm > 0 else (blob.chi_ppm,)
    return [
        Layer(box, fraction, Tissue(chi, blob.r1_per_s, blob.r2star_per_s, blob.m0 * m0, _LABEL[blob.kind]))
        for fraction, chi in zip(fractions, chis, strict=True)
    ]


def _depth(blob: Blob, centre_mm: Triple, axes: Axes, reach_mm: float) -> Tensor:
    """Depth in mm below the surface [x, y, z]; true to scale but for the stretch."""
    local = [axis - c for axis, c in zip(axes, centre_mm, strict=True)]
    # Rows: the lesion's own coordinates, in which its lobes are balls.
    turn = (rotation_matrix(blob.rotation_deg).T / torch.tensor(blob.stretch)[:, None]).tolist()
    own = [a * local[0][:, None, None] + b * local[1][:, None] + c * local[2] for a, b, c in turn]
    square = own[0] * own[0] + own[1] * own[1] + own[2] * own[2]
    depth: Tensor | None = None
    for x, y, z, radius in blob.lobes:
        # |own - lobe|^2 = |own|^2 - 2 own . lobe + |lobe|^2; the middle term is linear in the axes.
        slope = [-2 * (turn[0][i] * x + turn[1][i] * y + turn[2][i] * z) for i in range(3)]
        plane = slope[0] * local[0][:, None] + slope[1] * local[1] + (x * x + y * y + z * z)
        distance = (square + plane[:, :, None]).add_(slope[2] * local[2]).clamp_min_(0).sqrt_()
        ball = distance.neg_().add_(radius)
        depth = ball if depth is None else torch.maximum(depth, ball)
    assert depth is not None
    if blob.roughness > 0:
        depth += blob.roughness * blob.lobes[0][3] * _irregularity(blob, (local[0], local[1], local[2]), reach_mm)
    return depth


def _irregularity(blob: Blob, local: Axes, reach_mm: float) -> Tensor:
    """Unit-variance noise [x, y, z] with details of about the smallest lobe, on a lattice around the lesion."""
    lattice = Lattice((_NOISE_SAMPLES,) * 3, 2.2 * reach_mm / (_NOISE_SAMPLES - 1))
    scale = max(min(lobe[3] for lobe in blob.lobes), 2.5 * lattice.spacing_mm)
    noise = band_noise(lattice, seeded(blob.seed, 1), lambda k: torch.exp(-0.5 * (k * scale * 2) ** 2))
    return lattice.read(noise.clamp_(-_SIGMAS, _SIGMAS), local)
