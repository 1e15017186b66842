"""Tables of results: on the terminal, as CSV and as JSON."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qsmdl.challenge.metrics import METRICS
from qsmdl.challenge.protocol import Row, average_rows
from qsmdl.errors import InputError
from qsmdl.io.files import read_json, write_json, write_text

UNDEFINED = "–"  # noqa: RUF001
_DIGITS = {"%": 1, "1": 3, "ppm voxel": 1}
_ROW_KEYS = frozenset(Row.__annotations__)


def _value_text(key: str, value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.{_DIGITS[METRICS[key].unit]}f}"


def _seconds_text(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def _bytes_text(n_bytes: int | None) -> str:
    if n_bytes is None:
        return UNDEFINED
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"


def _best(rows: Sequence[Row], key: str) -> str | None:
    """The best value as printed, so that values that look alike are marked alike. With one row there is nothing to compare."""
    values = [value for row in rows if (value := row["metrics"].get(key)) is not None]
    if len(rows) < 2 or not values:
        return None
    return _value_text(key, min(values) if METRICS[key].lower_is_better else max(values))


def _unit(key: str) -> str:
    unit = METRICS[key].unit
    return "" if unit == "1" else unit.replace("voxel", "vx")


def _metric_cells(rows: Sequence[Row], key: str) -> list[Text]:
    best = _best(rows, key)
    texts = [_value_text(key, row["metrics"].get(key)) for row in rows]
    return [Text(text, style="bold" if text == best else "") for text in texts]


def _names(rows: Sequence[Row]) -> dict[int, str]:
    """The method's name, with its seed where a method was run with several."""
    seeds: dict[str, set[int | None]] = {}
    for row in rows:
        seeds.setdefault(row["method"], set()).add(row["seed"])
    return {id(row): row["method"] if len(seeds[row["method"]]) == 1 else f"{row['method']} (seed {row['seed']})" for row in rows}


def _empty_table(title: str) -> Table:
    return Table(title=Text(title, style="bold"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)


def make_table(rows: Sequence[Row], title: str) -> Table:
    """A table with one line per row (which compare with each other): the official metrics, time, peak memory, how it ended; best values bold."""
    table = _empty_table(title)
    table.add_column("Method", overflow="fold")
    for key, metric in METRICS.items():
        table.add_column(f"{metric.short}\n{_unit(key)}", justify="right", no_wrap=True)
    table.add_column("Time", justify="right", no_wrap=True)
    table.add_column("Peak", justify="right", no_wrap=True)
    table.add_column("Ended", overflow="fold")
    names, columns = _names(rows), [_metric_cells(rows, key) for key in METRICS]
    for index, row in enumerate(rows):
        cells = [column[index] for column in columns]
        table.add_row(Text(names[id(row)]), *cells, _seconds_text(row["seconds"]), _bytes_text(row["peak_bytes"]), Text(row["stopped"]))
    return table


def make_upright_table(rows: Sequence[Row], title: str) -> Table:
    """The same table turned: one column per row of results, for narrow terminals."""
    table = _empty_table(title)
    table.add_column("", no_wrap=True, min_width=max(len(f"{metric.short} {_unit(key)}") for key, metric in METRICS.items()))
    for name in _names(rows).values():
        table.add_column(Text(name), justify="right", overflow="fold", min_width=9)
    for key, metric in METRICS.items():
        table.add_row(f"{metric.short} {_unit(key)}".strip(), *_metric_cells(rows, key))
    table.add_row("Time", *(_seconds_text(row["seconds"]) for row in rows))
    table.add_row("Peak", *(_bytes_text(row["peak_bytes"]) for row in rows))
    table.add_row("Ended", *(Text(row["stopped"]) for row in rows))
    return table


def group_by_scan(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows that compare with each other: those of each scan, then those of each set of averaged scans (`protocol.average_rows`)."""
    groups: dict[str, list[Row]] = {}
    for row in [*rows, *average_rows(rows)]:
        groups.setdefault(row["scan"], []).append(row)
    return groups


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
    endless = console.options.update(max_width=10_000)
    for scan, group in group_by_scan(rows).items():
        table, upright = make_table(group, scan), make_upright_table(group, scan)
        width, upright_least = console.measure(table, options=endless).maximum, console.measure(upright, options=endless).minimum
        if width <= console.width or not console.is_terminal or upright_least > console.width:
            _print_at_full_width(console, table, width)
        else:
            console.print(upright)


def write_csv(rows: Iterable[Row], path: Path | str, overwrite: bool = False) -> None:
    """Writes one line per row with a column per metric (all keys that occur), empty where undefined. Raises InputError as `io.files.atomic_path`."""
    rows = list(rows)
    keys = list(dict.fromkeys([*METRICS, *(key for row in rows for key in row["metrics"])]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "scan", "seed", *keys, "seconds", "peak_bytes", "stopped"])
    for row in rows:
        metrics = [row["metrics"].get(key) for key in keys]
        writer.writerow([row["method"], row["scan"], row["seed"], *metrics, row["seconds"], row["peak_bytes"], row["stopped"]])
    write_text(path, text.getvalue(), overwrite)


def write_rows(rows: Iterable[Row], path: Path | str, overwrite: bool = False) -> None:
    """Writes rows as JSON, undefined metrics as null. Raises InputError as `io.files.write_json`."""
    write_json(path, list(rows), overwrite)


def read_rows(path: Path | str) -> list[Row]:
    """Reads what `write_rows` wrote. Raises InputError naming the file: missing, not JSON, or not a list of rows."""
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(row, dict) and set(row) >= _ROW_KEYS for row in content):
        raise InputError(f"{path} does not hold rows of results (a list of objects with {', '.join(sorted(_ROW_KEYS))}). Name a rows.json.")
    return content
