"""All figures of a leaderboard, each drawn only where there are data for it; what is left out is said, with the reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from qsmdl.challenge.protocol import parse_scan
from qsmdl.challenge.published import Published
from qsmdl.challenge.ranking import Entry, Standing, change_of_stage, find_standing
from qsmdl.errors import InputError
from qsmdl.report.matrix import correlation_figure
from qsmdl.report.pairs import N_PER_KIND, pair_figure
from qsmdl.report.scatter import Pairs, agreement_figure, stage_change_figure
from qsmdl.report.spider import spider_figure
from qsmdl.report.style import save_figure

MIN_PAIRS = 2


@dataclass(frozen=True, slots=True)
class Drawn:
    """One figure: its name (that of the files), what it shows, and the files (.png, .svg)."""

    name: str
    caption: str
    paths: tuple[Path, ...]


@dataclass(slots=True)
class Gallery:
    """The figures drawn so far, and (name, reason) of those that were left out."""

    folder: Path
    overwrite: bool = False
    drawn: list[Drawn] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, caption: str, make: Callable[[], Figure]) -> None:
        """Draws and writes a figure, or notes why its data do not suffice (an InputError of `make`)."""
        try:
            figure = make()
        except InputError as error:
            self.left_out.append((name, str(error)))
            return
        self.drawn.append(Drawn(name, caption, tuple(save_figure(figure, self.folder, name, overwrite=self.overwrite))))


def _mean_nrmse(entry: Entry, scans: Sequence[str]) -> float | None:
    """Over some of the entry's scans; None where one is undefined."""
    values = [entry.by_scan[scan].get("rmse") for scan in scans]
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined and len(defined) == len(values) else None


def nrmse_pairs(entries: Sequence[Entry], x_scans: Sequence[str], y_scans: Sequence[str]) -> Pairs:
    """NRMSE (%) of each entry over two sets of scans. Raises InputError: fewer than two entries with both."""
    found = [(entry, _mean_nrmse(entry, x_scans), _mean_nrmse(entry, y_scans)) for entry in entries]
    complete = [(entry, x, y) for entry, x, y in found if x is not None and y is not None]
    if len(complete) < MIN_PAIRS:
        raise InputError(f"At least {MIN_PAIRS} algorithms with an NRMSE on both sides are needed; there are {len(complete)}.")
    return Pairs(
        [x for _, x, _ in complete], [y for _, _, y in complete], [entry.name for entry, _, _ in complete], [entry.kind for entry, _, _ in complete]
    )


def _agreement(standing: Standing, x_name: str, y_name: str, of: Callable[[str], str | None], title: str) -> Figure:
    """of: which side a scan belongs to."""
    x_scans, y_scans = ([scan for scan in standing.scans if of(scan) == side] for side in (x_name, y_name))
    if not x_scans or not y_scans:
        raise InputError(f"Scores on {x_name} and on {y_name} are needed; the rows are on {', '.join(standing.scans)}.")
    pairs = nrmse_pairs(standing.entries, x_scans, y_scans)
    return agreement_figure(pairs, metric="NRMSE", unit="%", x_name=x_name, y_name=y_name, title=title, note=standing.basis)


def _simulation(scan: str) -> str | None:
    number = parse_scan(scan).simulation
    return None if number is None else f"Sim{number}"


def _snr(scan: str) -> str | None:
    level = parse_scan(scan).snr_level
    return None if level is None else f"SNR{level}"


def _stage_name(standing: Standing) -> str:
    level = "" if standing.snr_level is None else f", SNR{standing.snr_level}"
    return "other scans" if standing.stage is None else f"stage {standing.stage}{level}"


def _suffix(standing: Standing) -> str:
    """Of file names; a noise level that stands for its stage is named, as there may be another."""
    level = "" if standing.snr_level is None else f"_snr{standing.snr_level}"
    return "other" if standing.stage is None else f"stage{standing.stage}{level}"


def _draw_stage(gallery: Gallery, standing: Standing) -> None:
    """The four figures that one stage alone gives."""
    stage, suffix = _stage_name(standing), _suffix(standing)
    entries, note = standing.entries, standing.basis
    title = f"NRMSE of Sim1 and Sim2, {stage}"
    gallery.add(
        f"nrmse_sim1_sim2_{suffix}",
        f"{title}: scatter plot and Bland-Altman plot, by kind of algorithm.",
        lambda: _agreement(standing, "Sim1", "Sim2", _simulation, title),
    )
    gallery.add(
        f"correlations_{suffix}",
        f"Pearson's correlation of all metrics, {stage}.",
        lambda: correlation_figure(entries, title=f"Correlation of the metrics, {stage}", note=note),
    )
    gallery.add(
        f"pairs_{suffix}",
        f"Selected metrics against each other, {stage}: the best {N_PER_KIND} of each kind.",
        lambda: pair_figure(entries, title=f"Metrics of the best {N_PER_KIND} of each kind, {stage}", note=note),
    )
    gallery.add(
        f"spider_{suffix}",
        f"The lowest NRMSE (up to five algorithms) on all metrics, {stage}.",
        lambda: spider_figure(entries, title=f"Algorithms of lowest NRMSE, {stage}", note=note),
    )


def published_changes(published: Sequence[Published]) -> list[tuple[Published, Published]]:
    """(stage 1, stage 2) of the published submissions that are in both tables."""
    second = {row.identifier: row for row in published if row.stage == 2}
    return [(row, second[row.identifier]) for row in published if row.stage == 1 and row.identifier in second]


def _stage_change(first: Standing | None, second: Standing | None, published: Sequence[Published]) -> Figure:
    if first is None or second is None:
        raise InputError(f"Scores of stage 1 and of stage 2 are needed; those of stage {1 if first is None else 2} are missing.")
    changes = [(a, b) for a, b in change_of_stage(first, second) if a.nrmse is not None and b.nrmse is not None]
    if not changes:
        raise InputError("No algorithm has an NRMSE in both stages: the names in stage 1 and stage 2 must be the same.")
    before, after = [a.nrmse or 0.0 for a, _ in changes], [b.nrmse or 0.0 for _, b in changes]
    pairs = Pairs(before, after, [b.name for _, b in changes], [b.kind for _, b in changes])
    return stage_change_figure(pairs, published_changes(published), title=f"From stage 1 to {_stage_name(second)}", note=second.basis)


def is_of_whole_stage(standing: Standing, standings: Sequence[Standing]) -> bool:
    """Whether a standing is that of all scans of its stage, not of one noise level among several."""
    return standing.is_combined or find_standing(standings, standing.stage) is None


def draw_figures(standings: Sequence[Standing], folder: Path, *, published: Sequence[Published] = (), overwrite: bool = False) -> Gallery:
    """Writes every figure that the standings (`challenge.ranking.make_standings`) have data for, as PNG and SVG, into a folder.

    published: reference points of the change between the stages. Raises InputError: an existing file, or one that cannot be written.
    """
    gallery = Gallery(folder, overwrite)
    for standing in standings:
        if is_of_whole_stage(standing, standings):
            _draw_stage(gallery, standing)
    first, second = (next((s for s in standings if s.stage == n and s.entries and is_of_whole_stage(s, standings)), None) for n in (1, 2))
    gallery.add(
        "stage1_to_stage2",
        "NRMSE of stage 2 against stage 1 of each algorithm, with the identity line.",
        lambda: _stage_change(first, second, published),
    )
    if second is not None:
        gallery.add(
            "nrmse_snr1_snr2",
            "NRMSE at the two noise levels of stage 2: scatter plot and Bland-Altman plot.",
            lambda: _agreement(second, "SNR1", "SNR2", _snr, "NRMSE at SNR1 and SNR2, stage 2"),
        )
    else:
        gallery.left_out.append(("nrmse_snr1_snr2", "Scores of stage 2 at both noise levels (Sim1Snr1, Sim1Snr2, ...) are needed."))
    return gallery
