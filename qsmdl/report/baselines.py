"""The table of all methods as a page of documentation."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import torch

from qsmdl import __version__
from qsmdl.challenge.baselines import Summary
from qsmdl.challenge.metrics import METRICS
from qsmdl.report.table import UNDEFINED, bytes_text, seconds_text, value_text

_FROM_DESCRIPTION = "\\*"
_MEANING = """Lower is better in every column. The eight metrics are those of the challenge ([metrics.md](metrics.md)), averaged over the scans as
the challenge did: the two calcification metrics come from Sim2 alone. **unrung** is the NRMSE of the very same map after the removal of ringing
([unring.md](unring.md)), which `unring=true` switches on for any method. Time is wall time per scan, the mean over the scans, reading and field fit
not counted; peak is the largest resident memory of the method's process over both scans, with the scan and the interpreter in it. Every method and
scan ran in a process of its own. Settings are the defaults; no method was given this pair's truth."""


def _provenance() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "scipy"))
    return f"qsmdl {__version__}, Python {platform.python_version()}, {packages}; {torch.get_num_threads()} threads on {platform.machine()}."


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _mean(values: Mapping[str, float | None], scans: Sequence[str]) -> float | None:
    """The mean over all scans; None where one of them has no value."""
    found = [values.get(scan) for scan in scans]
    defined = [value for value in found if value is not None]
    return sum(defined) / len(defined) if defined and len(defined) == len(found) else None


def _cells(summary: Summary, scans: Sequence[str], scored: bool) -> list[str]:
    about, row = summary.method.about, summary.row
    cells = [summary.method.name + (f" {_FROM_DESCRIPTION}" if about.from_description else ""), about.kind]
    if scored:
        metrics = {key: value_text(key, row["metrics"].get(key)) for key in METRICS}
        nrmse = [value_text("rmse", value) for value in (_mean(summary.unrung, scans), *(summary.nrmse.get(scan) for scan in scans))]
        cells += [f"**{metrics['rmse']}**", *nrmse, *(text for key, text in metrics.items() if key != "rmse")]
    steps = ", ".join(str(n) for n in dict.fromkeys(summary.n_steps))
    return [*cells, seconds_text(row["seconds"]), bytes_text(row["peak_bytes"]), steps, "; ".join(summary.settings) or UNDEFINED]


def _headings(scans: Sequence[str], scored: bool) -> list[str]:
    metrics = [f"{metric.short}{'' if metric.unit == '1' else f' ({metric.unit})'}" for metric in METRICS.values()]
    named = [metrics[0], "unrung", *scans, *metrics[1:]] if scored else []
    return ["method", "type", *named, "time", "peak", "iterations", "setting"]


def baselines_page(summaries: Sequence[Summary], failures: Mapping[str, str], *, scans: Sequence[str], command: str, data: str) -> str:
    """The page in Markdown, without a date: the same results give the same page.

    summaries: in the order of the table; failures: method -> why it has no map; scans: the columns; command: that makes the page; data: what the
    scans are, in words.
    """
    scored = any(summary.row["metrics"] for summary in summaries)
    headings = _headings(scans, scored)
    lines = ["# All methods" + (" on one pair" if scored else ""), "", data, "", "```bash", command, "```", ""]
    lines += [_MEANING, ""] if scored else ["The truth of these scans is not known, so the maps are not scored.", ""]
    lines += [_line(headings), _line(["---"] * len(headings)), *(_line(_cells(summary, scans, scored)) for summary in summaries), ""]
    if any(summary.method.about.from_description for summary in summaries):
        lines += [f"{_FROM_DESCRIPTION} built from the description in a paper; code or details of the original are not public (`qsmdl methods`).", ""]
    if failures:
        lines += ["Without a map:", "", *(f"- {name}: {reason}" for name, reason in failures.items()), ""]
    lines += ["Settings of every keyword: `qsmdl methods NAME`. " + _provenance(), ""]
    return "\n".join(lines)
