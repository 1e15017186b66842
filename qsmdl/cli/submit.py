"""qsmdl submit: maps as the challenge wanted them handed in."""

import argparse
from pathlib import Path
from typing import Any

from qsmdl.cli.progress import console
from qsmdl.errors import InputError

_OPTIONS = ("name", "acronym", "type", "input_used", "magnitude_used", "regularisation", "seeds", "runtime_s", "institution")


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command line of `qsmdl submit`."""
    parser = commands.add_parser(
        "submit",
        help="pack maps as a submission: an anonymous zip archive, and a form apart from it",
        description="Writes FOLDER/ID.zip with the maps and nothing that tells whose they are, and FOLDER/ID.json, the form.",
    )
    parser.add_argument(
        "maps", nargs="+", metavar="MAP", help="a map of every scan of a stage, in ppm: Sim1=PATH, or a path whose file name tells the scan"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="where the archive and the form go")
    parser.add_argument("--identifier", metavar="ID", help="10 letters and digits (default: drawn at random)")
    parser.add_argument("--overwrite", action="store_true", help="replace a submission of this identifier")
    parser.add_argument("--form", type=Path, metavar="JSON", help="the entries below as a JSON file; options win over it")
    form = parser.add_argument_group("the form")
    form.add_argument("--name", help="of the method")
    form.add_argument("--acronym", help="of the method, for tables (default: its name)")
    form.add_argument("--type", help="direct, iterative or 'deep learning'")
    form.add_argument("--input-used", help="'frequency map', 'all echoes' or other")
    form.add_argument("--magnitude-used", choices=("yes", "no"), help="whether the magnitude weights or guides the inversion")
    form.add_argument("--regularisation", metavar="TEXT", help="terms, and how their weights were chosen; none where there are none")
    form.add_argument("--seeds", type=int, nargs="*", metavar="N", help="of everything random, training included (default: none)")
    form.add_argument("--runtime-s", type=float, metavar="S", help="wall time of one map in s")
    form.add_argument("--institution", help="optional")


def _content(arguments: argparse.Namespace) -> dict[str, Any]:
    from qsmdl.io.files import read_json

    content = read_json(arguments.form) if arguments.form else {}
    if not isinstance(content, dict):
        raise InputError(f"{arguments.form} does not hold one JSON object. Its entries are {', '.join(_OPTIONS)}.")
    given = {key: value for key in _OPTIONS if (value := getattr(arguments, key)) is not None}
    if "magnitude_used" in given:
        given["magnitude_used"] = given["magnitude_used"] == "yes"
    content = {"seeds": [], **content, **given}
    return content if "name" not in content else {"acronym": content["name"], **content}


def submit(arguments: argparse.Namespace) -> None:
    """Pack the maps; prints what was written."""
    from qsmdl.challenge.form import form_from, new_identifier
    from qsmdl.challenge.submission import assign_scans, pack, stage_of_scan

    maps = assign_scans(arguments.maps)
    told = {"identifier": arguments.identifier or new_identifier(), "stage": stage_of_scan(next(iter(maps)))}
    try:
        form = form_from({**_content(arguments), **told})
    except InputError as error:
        raise InputError(
            f"The form is not complete or not right. {error} Give the entry as an "
            "option, such as --runtime-s 12, or in --form."
        ) from error
    packed = pack(maps, arguments.output, form=form, overwrite=arguments.overwrite)
    console.print(f"{packed.archive}: {', '.join(sorted(maps))}, for scoring", highlight=False)
    console.print(f"{packed.form}: the form; hand it in separately, as it tells whose maps these are", highlight=False)
