"""qsmdl methods: a table of all methods, or everything about one."""

import inspect
import re
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qsmdl.about import about_of
from qsmdl.cli.catalogue import check_method, load_function, method_files
from qsmdl.errors import InputError
from qsmdl.methods import CONTEXT
from qsmdl.report.table import UNDEFINED, print_table

FROM_DESCRIPTION = "*"
FROM_DESCRIPTION_NOTE = f"{FROM_DESCRIPTION} from the description: built from a paper's words, since code or details of the original are not public."
_ENTRY = re.compile(r"(?P<key>[A-Za-z_]\w*):(?P<value>.*?)(?:\s#\s*(?P<comment>.*))?$")
_OF_EVERY_METHOD = {
    "crop_phase": "correct the scan's phases for the crop of its k-space first (docs/crop-phase.md)",
    "unring": "removal of ringing after the inversion (docs/unring.md)",
    "strong_sources": "correction of calcifications and haemorrhages, before the large scales; needs large_scales (docs/final-solve.md)",
    "large_scales": "smooth correction that explains the field, at the end (docs/final-solve.md)",
    "fine_scales": "and the fine scales, before ringing is removed; needs large_scales (docs/final-solve.md)",
    "structures": "and the means of its structures, last; needs large_scales (docs/final-solve.md)",
    "select": "choose the parameter without truth: lcurve | zero | frequency | discrepancy (docs/parameters.md)",
    "select_candidates": "what to choose from; null: a decade on either side of the setting",
}


@dataclass(frozen=True)
class Keyword:
    """One keyword: its default as the YAML has it, and unit and source from the YAML's comment."""

    name: str
    default: str
    comment: str


def keywords_of(path: Path) -> list[Keyword]:
    """Every keyword of a method, in the YAML's order; keywords that the YAML leaves out come last, with the default of the function."""
    found: dict[str, Keyword] = {}
    last = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        match = _ENTRY.match(line)
        if match is not None:
            last = match["key"]
            found[last] = Keyword(last, match["value"].strip(), (match["comment"] or "").strip())
        elif last and line[:1].isspace() and line.strip().startswith("#"):
            more = f"{found[last].comment} {line.strip(' #')}".strip()
            found[last] = Keyword(last, found[last].default, more)
    found.pop("_target_", None)
    function = load_function(path)
    for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
        if name not in CONTEXT and name not in found:
            found[name] = Keyword(name, "required" if parameter.default is parameter.empty else str(parameter.default), "")
    for name, comment in _OF_EVERY_METHOD.items():
        chooses = name.startswith("select")
        if not chooses or about_of(function).parameter:
            found.setdefault(name, Keyword(name, "null" if chooses else "false", comment))
    return list(found.values())


def _table(title: str = "") -> Table:
    return Table(title=Text(title, style="bold") if title else None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))


def make_methods_table() -> Table:
    """One line per method; one that cannot be imported says why, and hides no other."""
    table = _table()
    for heading in ("Method", "Type", "Input", "Parameter", "Reference", "Checked against"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("Method", "Type"))
    marked = False
    for name, path in method_files().items():
        try:
            about = about_of(load_function(path))
        except InputError as error:
            table.add_row(Text(name), "", Text(str(error)), "", "", "")
            continue
        mark = f" {FROM_DESCRIPTION}" if about.from_description else ""
        marked |= about.from_description
        cells = (about.kind, about.input, about.parameter or UNDEFINED, about.reference or UNDEFINED, about.checked or UNDEFINED)
        table.add_row(Text(f"{name}{mark}"), *(Text(cell) for cell in cells))
    if marked:
        table.caption, table.caption_justify = Text(FROM_DESCRIPTION_NOTE), "left"
    return table


def print_methods(console: Console | None = None) -> None:
    """Print the table of all methods."""
    print_table(make_methods_table(), console)


def print_method(name: str, console: Console | None = None) -> None:
    """Print everything about one method: what it is, its keywords with default, unit and source, and its docstring.

    Raises InputError for a method that is not there or cannot be imported.
    """
    check_method(name)
    path = method_files()[name]
    function, console = load_function(path), console or Console()
    about = about_of(function)
    told = {
        "Type": about.kind,
        "Input": about.input,
        "Parameter": about.parameter,
        "Reference": about.reference,
        "Checked against": about.checked,
        "From the description": "yes: code or details of the original are not public" if about.from_description else "",
        "Function": f"{function.__module__}.{function.__qualname__}",
    }
    console.print(Text(name, style="bold"))
    for key, value in told.items():
        if value:
            console.print(Text(f"{key}: {value}"), soft_wrap=True)
    table = _table()
    for heading in ("Keyword", "Default", "Unit and source"):
        table.add_column(heading, overflow="fold")
    for keyword in keywords_of(path):
        table.add_row(Text(keyword.name), Text(keyword.default), Text(keyword.comment))
    print_table(table, console)
    console.print(Text(inspect.getdoc(function) or "The function has no docstring."), soft_wrap=True)
