"""Tables of results: on the terminal, as CSV and as JSON."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from qsmdl.challenge.metrics import METRICS
from qsmdl.challenge.protocol import Row, average_rows, basis_of, stage_of
from qsmdl.challenge.published import ORIGIN, Published
from qsmdl.challenge.ranking import KNOWN_METRICS, Entry, Standing, display_names
from qsmdl.challenge.rows import check_rows
from qsmdl.errors import InputError
from qsmdl.io.files import read_json, write_json, write_text

UNDEFINED = "–"  # noqa: RUF001
UNATTESTED = "†"
UNATTESTED_NOTE = f"{UNATTESTED} not attested: the record of what this network was trained on is missing or not clean."
_TOLD = ("dialect", "convention", "stage", "kind", "attested")
_DIGITS = {"%": 1, "1": 3, "ppm voxel": 1}


def value_text(key: str, value: float | None) -> str:
    """A metric as tables print it: percentages and moments with one decimal, pure numbers with three, a dash where undefined."""
    return UNDEFINED if value is None else f"{value:.{_DIGITS.get(KNOWN_METRICS[key].unit, 3)}f}"


def seconds_text(seconds: float) -> str:
    """A duration as tables print it."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def bytes_text(n_bytes: int | None) -> str:
    """An amount of memory as tables print it."""
    if n_bytes is None:
        return UNDEFINED
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"


def ended_text(row: Row) -> str:
    """How the method ended, and what was chosen for it."""
    return f"{row['stopped']}; {row['chosen']}" if "chosen" in row else row["stopped"]


def best_text(key: str, values: Sequence[float | None]) -> str | None:
    """The best value as printed, so that values that look alike are marked alike. With one row there is nothing to compare."""
    defined = [value for value in values if value is not None]
    if len(values) < 2 or not defined:
        return None
    return value_text(key, min(defined) if KNOWN_METRICS[key].lower_is_better else max(defined))


def _unit(key: str) -> str:
    unit = METRICS[key].unit
    return "" if unit == "1" else unit.replace("voxel", "vx")


def _metric_cells(key: str, values: Sequence[float | None]) -> list[Text]:
    best = best_text(key, values)
    texts = [value_text(key, value) for value in values]
    return [Text(text, style="bold" if text == best else "") for text in texts]


def _row_cells(rows: Sequence[Row], key: str) -> list[Text]:
    return _metric_cells(key, [row["metrics"].get(key) for row in rows])


def marked_name(name: str, attested: bool | None) -> str:
    """A name with a dagger where the training record of a network is missing or not clean."""
    return f"{name} {UNATTESTED}" if attested is False else name


def _names(rows: Sequence[Row]) -> list[str]:
    """The method's name, with its seed where a method was run with several, and marked where it is not attested."""
    names = display_names((row["method"], row["seed"]) for row in rows)
    return [marked_name(names[row["method"], row["seed"]], row.get("attested")) for row in rows]


def _empty_table(title: str, attested: Iterable[bool | None] = ()) -> Table:
    """The note on networks that are not attested stands below where there is one."""
    table = Table(title=Text(title, style="bold"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    if False in attested:
        table.caption, table.caption_justify = Text(UNATTESTED_NOTE), "left"
    return table


def make_table(rows: Sequence[Row], title: str) -> Table:
    """A table with one line per row (which compare with each other): the official metrics, time, peak memory, how it ended; best values bold."""
    table = _empty_table(title, [row.get("attested") for row in rows])
    table.add_column("Method", overflow="fold")
    for key, metric in METRICS.items():
        table.add_column(f"{metric.short}\n{_unit(key)}", justify="right", no_wrap=True)
    table.add_column("Time", justify="right", no_wrap=True)
    table.add_column("Peak", justify="right", no_wrap=True)
    table.add_column("Ended", overflow="fold")
    columns = [_row_cells(rows, key) for key in METRICS]
    for index, (name, row) in enumerate(zip(_names(rows), rows, strict=True)):
        cells = [column[index] for column in columns]
        table.add_row(Text(name), *cells, seconds_text(row["seconds"]), bytes_text(row["peak_bytes"]), Text(ended_text(row)))
    return table


def make_upright_table(rows: Sequence[Row], title: str) -> Table:
    """The same table turned: one column per row of results, for narrow terminals."""
    table = _empty_table(title, [row.get("attested") for row in rows])
    table.add_column("", no_wrap=True, min_width=max(len(f"{metric.short} {_unit(key)}") for key, metric in METRICS.items()))
    for name in _names(rows):
        table.add_column(Text(name), justify="right", overflow="fold", min_width=9)
    for key, metric in METRICS.items():
        table.add_row(f"{metric.short} {_unit(key)}".strip(), *_row_cells(rows, key))
    table.add_row("Time", *(seconds_text(row["seconds"]) for row in rows))
    table.add_row("Peak", *(bytes_text(row["peak_bytes"]) for row in rows))
    table.add_row("Ended", *(Text(ended_text(row)) for row in rows))
    return table


def group_by_scan(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows that compare with each other, by title: those of each scan, then those of each set of averaged scans (`protocol.average_rows`).

    The title names the scan, the dialect of the metrics and the truth they compare with; a stage where it is not the one the scan's name tells.
    """
    groups: dict[str, list[Row]] = {}
    for row in [*rows, *average_rows(rows)]:
        groups.setdefault(_group_title(row), []).append(row)
    return groups


def _group_title(row: Row) -> str:
    stage = stage_of(row)
    return f"{row['scan']} ({'' if stage is None else f'stage {stage}, '}{basis_of(row)})"


def make_leaderboard_table(standing: Standing, keys: Iterable[str] = tuple(METRICS)) -> Table:
    """One line per algorithm, lowest NRMSE first: its kind, metrics (best values bold), top-five count, mean visual score if rated.

    keys: the metrics shown.
    """
    keys = tuple(keys)
    entries, rated = standing.entries, any(entry.visual is not None for entry in standing.entries)
    table = _empty_table(f"{standing.title} ({standing.basis})", [entry.attested for entry in entries])
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("Algorithm", overflow="fold")
    table.add_column("Kind", no_wrap=True)
    for key in keys:
        table.add_column(f"{METRICS[key].short}\n{_unit(key)}", justify="right", no_wrap=True)
    table.add_column(f"Top 5\nof {len(METRICS)}", justify="right", no_wrap=True)
    if rated:
        table.add_column("Visual\n0 to 3", justify="right", no_wrap=True)
    columns = [_metric_cells(key, [entry.metrics.get(key) for entry in entries]) for key in keys]
    for index, entry in enumerate(entries):
        cells: list[str | Text] = [_rank_text(entry), Text(marked_name(entry.name, entry.attested)), entry.kind or UNDEFINED]
        cells += [column[index] for column in columns]
        cells.append(str(entry.n_top_five))
        if rated:
            cells.append(UNDEFINED if entry.visual is None else f"{entry.visual:.2f}")
        table.add_row(*cells)
    return table


def make_published_table(published: Sequence[Published]) -> Table:
    """The challenge's published scores, in a table of their own: they rank with nothing else."""
    table = _empty_table(f"Published scores ({ORIGIN}; not ranked with other rows)")
    keys = ("rmse", "rmse_detrend_Blood", "CalcStreak", "DeviationFromCalcMoment")
    for heading in ("Stage", "Submission", "Kind"):
        table.add_column(heading, overflow="fold")
    for heading in (*(f"{METRICS[key].short}\n{_unit(key)}" for key in keys), "Top 5", "Visual\n0 to 3"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in published:
        visual = UNDEFINED if row.mean_visual is None else f"{row.mean_visual:.2f}"
        metrics = [value_text(key, row.metrics[key]) for key in keys]
        table.add_row(str(row.stage), Text(row.name), row.kind, *metrics, str(row.n_top_five), visual)
    return table


def _rank_text(entry: Entry) -> str:
    rank = entry.ranks.get("rmse")
    return UNDEFINED if rank is None else str(rank)


def endless_options(console: Console) -> ConsoleOptions:
    """The options of a console that is as wide as a table wants."""
    return console.options.update(max_width=10_000)


def _print_at_full_width(console: Console, table: Table, width: int) -> None:
    """The library never prints wider than its console, which for files is an arbitrary 80 columns: widened for the moment."""
    before = console.width
    console.width = max(before, width)
    try:
        console.print(table)
    finally:
        console.width = before


def print_tables(rows: Sequence[Row], console: Console | None = None) -> None:
    """Prints one table per scan and one of averages; turned upright where the terminal is too narrow, at full width where the output is a file.

    Raises InputError where there are no rows.
    """
    if not rows:
        raise InputError("There are no results to show. Run at least one method on one scan.")
    console = console or Console()
    endless = endless_options(console)
    for scan, group in group_by_scan(rows).items():
        table, upright = make_table(group, scan), make_upright_table(group, scan)
        width, upright_least = console.measure(table, options=endless).maximum, console.measure(upright, options=endless).minimum
        if width <= console.width or not console.is_terminal or upright_least > console.width:
            _print_at_full_width(console, table, width)
        else:
            console.print(upright)


def print_leaderboard(standing: Standing, console: Console | None = None) -> None:
    """Prints a standing; where the terminal is too narrow for all metrics, with NRMSE alone. Files get everything, at full width."""
    console = console or Console()
    table = make_leaderboard_table(standing)
    width = console.measure(table, options=endless_options(console)).maximum
    if console.is_terminal and width > console.width:
        console.print(make_leaderboard_table(standing, keys=("rmse",)))
    else:
        _print_at_full_width(console, table, width)


def print_table(table: Table, console: Console | None = None) -> None:
    """Prints a table: long cells fold where a terminal is narrow, files get it at full width."""
    console = console or Console()
    if console.is_terminal:
        console.print(table)
    else:
        _print_at_full_width(console, table, console.measure(table, options=endless_options(console)).maximum)


def print_published(published: Sequence[Published], console: Console | None = None) -> None:
    """Prints the published scores; long names fold where a terminal is narrow."""
    print_table(make_published_table(published), console)


def write_csv(rows: Iterable[Row], path: Path | str, overwrite: bool = False) -> None:
    """Writes one line per row with a column per metric (all keys that occur), empty where undefined. Raises InputError as `io.files.atomic_path`."""
    rows = list(rows)
    keys = list(dict.fromkeys([*METRICS, *(key for row in rows for key in row["metrics"])]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "scan", "seed", *_TOLD, *keys, "seconds", "peak_bytes", "stopped", "chosen"])
    for row in rows:
        metrics = [row["metrics"].get(key) for key in keys]
        told = [basis_of(row).dialect, basis_of(row).convention, stage_of(row), row.get("kind"), row.get("attested")]
        ended = [row["seconds"], row["peak_bytes"], row["stopped"], row.get("chosen")]
        writer.writerow([row["method"], row["scan"], row["seed"], *told, *metrics, *ended])
    write_text(path, text.getvalue(), overwrite)


def write_rows(rows: Iterable[Row], path: Path | str, overwrite: bool = False) -> None:
    """Writes rows as JSON, undefined metrics as null. Raises InputError as `io.files.write_json`."""
    write_json(path, list(rows), overwrite)


def read_rows(path: Path | str) -> list[Row]:
    """Reads what `write_rows` wrote. Raises InputError naming the file: missing, not JSON, or not a list of rows (`challenge.rows.check_rows`)."""
    return check_rows(read_json(path), str(path))
