"""mcTFI: the complex signals of all echoes explained by susceptibility, magnitude, R2* and phase offset at once."""

from qsmdl.about import about
from qsmdl.errors import InputError
from qsmdl.physics.relaxation import fit_r2star
from qsmdl.scan import ChiMap, FieldMap, Scan
from qsmdl.solvers.admm import OnStep
from qsmdl.solvers.echoes import EchoMisfit
from qsmdl.solvers.grid import PADDING
from qsmdl.solvers.inversion import invert
from qsmdl.solvers.medi import csf_terms, magnitude_edges
from qsmdl.solvers.objective import DipoleMisfit, FourierCoordinates, SmoothedVariation
from qsmdl.solvers.preconditioner import strength_by_threshold
from qsmdl.solvers.problem import Problem
from qsmdl.validation import check_positive


@about(
    input="all echoes",
    reference="Wen et al., mcTFI, Magn Reson Med 2021",
    parameter="regularisation",
)
def mctfi(
    field: FieldMap,
    *,
    regularisation: float = 8e-5,
    refit: bool = True,
    free_offset: bool = False,
    unwrapped: bool = True,
    strength: float = 1.0,
    r2star_per_s: float = 70.0,
    edge_share: float = 0.0,
    csf_regularisation: float = 0.0,
    csf_r2star_per_s: float = 5.0,
    smoothing: float = 1e-4,
    n_iterations: int = 10,
    tolerance: float = 0.1,
    cg_iterations: int = 100,
    cg_tolerance: float = 0.1,
    padding: float | None = PADDING,
    scan: Scan | None = None,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Multi-echo complex total field inversion (Wen et al., Magn Reson Med 2021), of a scan without background field.

    Minimises 1/2 sum_j |m_0 exp(-R2* TE_j) exp(i (c_j D x + phi_0)) - s_j|^2 / k^2 + alpha ||M G x||_1 + beta/2 ||x - mean x||^2 over the CSF, over
    the map x in ppm and, voxel by voxel, m_0, R2* and phi_0; s_j are the complex signals of all echoes, c_j = 2 pi gamma B0 TE_j. Gauss-Newton steps
    in x, by conjugate gradients as in `medi`, alternate with refits of the others (`refit`: m_0 and R2*, else m_j = |s_j|; `free_offset`: phi_0, else
    0). No refit and no step raises the objective. k, the mean of sqrt(sum_j c_j^2 |s_j|^2), gives alpha the meaning that it has for a field map.
    What differs from the original: no background; with `unwrapped` the echoes' phases are taken to the turn of the field map and a misfit beyond
    half a turn does not wrap, so that the start at x = 0 is safe; with False they wrap, as in the original.

    regularisation: alpha in ppm mm. strength: the preconditioner P where R2* exceeds `r2star_per_s` in 1/s (see `tfi`; 1: none). edge_share,
    csf_regularisation (beta), csf_r2star_per_s, smoothing (ppm/mm) and the iterations: see `medi`. padding: see `WorkingGrid.of`. The field map gives
    the grid, the mask and the turns. The k = 0 component is 0.

    Raises InputError for a total field, a missing scan, one echo, echoes that do not belong to the field map, or a setting out of range.
    """
    check_positive(regularisation=regularisation, strength=strength, r2star_per_s=r2star_per_s, smoothing=smoothing)
    if scan is None:
        raise InputError(f"mctfi needs the echoes of {field.name!r}, but no scan was given. Use medi or tv, which work from the field map.")
    problem = Problem.of(field, padding=padding)
    coordinates = FourierCoordinates(problem.grid.shape, problem.data)
    misfit = EchoMisfit.of(scan, problem, unwrapped=unwrapped, refit=refit, free_offset=free_offset)
    data = DipoleMisfit(problem, misfit, coordinates)
    variation = SmoothedVariation(problem, coordinates, regularisation, smoothing, magnitude_edges(problem, scan, edge_share))
    expected = None
    if strength != 1:
        r2star = fit_r2star(scan)[0].to(problem.data.dtype)
        expected = problem.grid.place(strength_by_threshold(r2star, field.mask, threshold_per_s=r2star_per_s, strength=strength) - 1) + 1
    found = invert(
        problem, data, variation, coordinates, more=csf_terms(problem, coordinates, scan, csf_regularisation, csf_r2star_per_s),
        n_iterations=n_iterations, tolerance=tolerance, cg_iterations=cg_iterations, cg_tolerance=cg_tolerance, strength=expected, on_step=on_step,
    )  # fmt: skip
    return problem.chi_map(found)
