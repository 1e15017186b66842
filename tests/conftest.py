"""Geometries without cubes, and a tiny simulated scan."""

import functools
import warnings
from collections.abc import Iterator

import pytest
import torch

from qsmdl.data.recipe import Recipe, VolumeParams, draw_volume, render_volume, volume_seed
from qsmdl.phantom.anatomy.label_atlas import LabelAtlas
from qsmdl.physics.fieldmap import fit_field
from qsmdl.scan import FieldMap, Geometry, Scan, Truth

with warnings.catch_warnings():  # Lightning's own imports warn about their dependencies; the suite treats warnings of ours as errors
    warnings.simplefilter("ignore")
    import lightning.pytorch  # noqa: F401

# The suite runs in several processes; threads of each would fight over the cores (measured: 231 s against 64 s).
torch.set_num_threads(1)

OBLIQUE = (0.36, -0.48, 0.8)
GEOMETRIES = {
    "odd": Geometry((5, 7, 9), (1.0, 2.0, 3.0), OBLIQUE),
    "even": Geometry((6, 4, 8), (2.0, 1.0, 1.5), OBLIQUE),
    "mixed": Geometry((3, 4, 5), (1.0, 2.0, 3.0), (0.6, 0.0, 0.8)),
    "axial": Geometry((6, 5, 4), (0.7, 1.0, 2.0), (0.0, 0.0, 1.0)),
}


@pytest.fixture(params=GEOMETRIES.values(), ids=GEOMETRIES.keys())
def geometry(request: pytest.FixtureRequest) -> Geometry:
    return request.param


@pytest.fixture(scope="session")
def sample() -> tuple[Scan, Truth]:
    """A Sim2-like head at 5 mm, peak SNR 100."""
    recipe = Recipe(voxel_size_mm=(5.0, 5.0), peak_snr=(100.0, 100.0))
    return render_volume(recipe, draw_volume(recipe, volume_seed("test", 3, 0), contrast="sim2", name="Sim2"))


@pytest.fixture(scope="session")
def sample_field(sample: tuple[Scan, Truth]) -> FieldMap:
    return fit_field(sample[0])


@pytest.fixture(scope="session", autouse=True)
def own_register(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor write the user's register of evaluation data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QSMDL_EVALUATION_DATA", str(tmp_path_factory.mktemp("register")))
        yield


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@functools.cache
def _kept(recipe: Recipe, params: VolumeParams, *, complete: bool) -> tuple[Scan, Truth]:
    return render_volume(recipe, params, complete=complete)


def _rendered(recipe: Recipe, params: VolumeParams, atlases: tuple[LabelAtlas, ...] = (), *, complete: bool = True) -> tuple[Scan, Truth]:
    if recipe.engine is not None:  # small samples, each drawn once
        return render_volume(recipe, params, atlases, complete=complete)
    return _kept(recipe, params, complete=complete)


@pytest.fixture
def fast_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads are rendered once a session, whoever draws them again."""
    for module in ("qsmdl.data.stream", "qsmdl.data.datamodule", "qsmdl.challenge.cases", "qsmdl.cli.cache"):
        monkeypatch.setattr(f"{module}.render_volume", _rendered)
