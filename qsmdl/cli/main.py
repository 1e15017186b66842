"""The `qsmdl` command."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from qsmdl import __version__
from qsmdl.cli import attest, baselines, heldout, judge, leaderboard, replay, report, simulate, submit, sweep
from qsmdl.cli.errors import reported
from qsmdl.cli.memory import keep_freed_memory
from qsmdl.units import GAMMA_MHZ_PER_TESLA

EPILOG = "Errors end with status 2, interruptions with 130. https://doi.org/10.1002/mrm.28754 describes the challenge's data and metrics."
ALIASES = {"flagship+fine": "flagship_fine"}
"""Other names of methods."""


def _reconstruct(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "reconstruct",
        help="susceptibility map of one scan",
        description="A folder in the challenge's layout (Phase, Magnitude, MaskBrainExtracted, params.json), of a subject in BIDS (sub-XX with "
        "echoes part-mag and part-phase, and a mask among the derivatives) or of QSM-CI (inputs/), or --field with --units and --mask.",
    )
    parser.add_argument("arguments", nargs="*", metavar="SCAN_DIR key=value", help="the scan's folder, and settings of the method")
    parser.add_argument("--method", required=True, help="see qsmdl methods; flagship+fine is flagship_fine")
    parser.add_argument("--checkpoint", type=Path, help="weights (.safetensors) for networks; default: those shipped with qsmdl")
    parser.add_argument(
        "-o", "--output", type=Path, help="the map NAME, .nii or .nii.gz (default SCAN_METHOD.nii.gz here); a .json beside it tells how it was made, "
        "and NAME_uncertainty holds each voxel's standard deviation where the method gives one"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument("--use-frequency", action="store_true", help="invert the Frequency map instead of a fit to all echoes")
    parser.add_argument("--remove-offset", action="store_true", help="take off the phase at TE = 0 that coils leave in measured scans")
    parser.add_argument("--gamma", type=float, default=GAMMA_MHZ_PER_TESLA, metavar="MHZ_PER_T", help="for Frequency and --units hz (default 42.577)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--seed", type=int, default=0)
    field = parser.add_argument_group("a field map instead of a scan")
    field.add_argument("--field", type=Path, help="local field, .nii or .nii.gz")
    field.add_argument("--units", choices=("ppm", "hz", "rad"), help="of --field; rad needs --echo-time")
    field.add_argument("--mask", type=Path)
    field.add_argument("--weight", type=Path, help="relative confidence, as the magnitude (default: equal)")
    field.add_argument("--b0", type=float, default=7.0, metavar="TESLA", help="field strength (default 7)")
    field.add_argument("--b0-direction", type=float, nargs=3, default=(0.0, 0.0, 1.0), metavar=("X", "Y", "Z"), help="in voxel axes (default 0 0 1)")
    field.add_argument("--echo-time", type=float, metavar="S", help="of a field in rad, in seconds")


def _score(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("score", help="the metrics of one map, in one dialect or all three")
    parser.add_argument("chi", type=Path, help="reconstruction in ppm")
    parser.add_argument("--truth", type=Path, required=True, help="true susceptibility in ppm")
    parser.add_argument("--mask", type=Path, required=True)
    parser.add_argument("--segmentation", type=Path, required=True, help="labels of the challenge")
    dialects = ("rc2", "qsm-ci", "corrected", "all")
    parser.add_argument("--dialect", choices=dialects, default="rc2", help="whose definitions (default rc2: the challenge's released code)")
    parser.add_argument("--additional", action="store_true", help="also SSIM, XSIM, HFEN, CC, MI, MAD, GXE and the error on the magic-angle cone")
    parser.add_argument("--json", action="store_true", help="print a JSON object with the keys of the challenge's evaluation code")
    parser.add_argument("--scan", metavar="NAME", help="which scan it is, e.g. Sim2Snr1: a Sim2 must have a calcification")
    parser.add_argument("--allow-missing-labels", action="store_true", help="score although regions are missing: their metrics are undefined")
    parser.add_argument("--b0", type=float, default=7.0, metavar="TESLA", help="to recognise a map in Hz or rad (default 7)")
    parser.add_argument("--b0-direction", type=float, nargs=3, default=(0.0, 0.0, 1.0), metavar=("X", "Y", "Z"), help="for the cone (default 0 0 1)")


_KEEPING = ("reconstruct", "simulate", "heldout")
"""Commands that work on volumes and do not compare the memory of one method with that of another in one process."""


def make_parser() -> argparse.ArgumentParser:
    """The command line of `qsmdl`."""
    parser = argparse.ArgumentParser(prog="qsmdl", description="Deep-learning quantitative susceptibility mapping, judged fairly.", epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"qsmdl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    simulate.add_arguments(commands)
    _reconstruct(commands)
    _score(commands)
    attest.add_arguments(commands)
    submit.add_arguments(commands)
    judge.add_arguments(commands)
    leaderboard.add_arguments(commands)
    report.add_arguments(commands)
    baselines.add_arguments(commands)
    heldout.add_arguments(commands)
    replay.add_arguments(commands)
    sweep.add_arguments(commands)
    methods = commands.add_parser("methods", help="all methods, or everything about one", description="Lists the methods that --method takes.")
    methods.add_argument("name", nargs="?", metavar="NAME", help="show this method's keywords with default, unit and source, and what it computes")
    return parser


def _check_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """What argparse cannot express; ends the process with status 2."""
    if arguments.command in ("simulate", "sweep"):
        arguments.settings = [*arguments.settings, *rest]
    elif arguments.command == "reconstruct":
        arguments.method = ALIASES.get(arguments.method, arguments.method)
        words = [*arguments.arguments, *rest]
        folders = [a for a in words if "=" not in a or Path(a).is_dir()]
        arguments.settings = [a for a in words if a not in folders]
        if len(folders) + (arguments.field is not None) != 1:
            parser.error(f"reconstruct takes one scan folder or --field, but got {len(folders)} folders{' and --field' if arguments.field else ''}.")
        if arguments.field is not None and (arguments.units is None or arguments.mask is None):
            parser.error("--field needs --units (ppm, hz or rad: they cannot be told from the values) and --mask.")
        if arguments.field is not None and arguments.remove_offset:
            parser.error("--remove-offset needs the echoes of a scan: a field map no longer tells its phase at TE = 0.")
        arguments.scan = Path(folders[0]) if folders else None


def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "methods":
        from qsmdl.cli.methods import print_method, print_methods

        print_methods() if arguments.name is None else print_method(arguments.name)
    elif arguments.command == "score":
        from qsmdl.cli.score import score_map

        score_map(arguments)
    elif arguments.command == "attest":
        attest.attest(arguments)
    elif arguments.command == "submit":
        submit.submit(arguments)
    elif arguments.command == "judge":
        judge.judge_folder(arguments)
    elif arguments.command == "leaderboard":
        leaderboard.leaderboard(arguments)
    elif arguments.command == "report":
        report.report(arguments)
    elif arguments.command == "baselines":
        baselines.baselines(arguments)
    elif arguments.command == "heldout":
        heldout.heldout(arguments)
    elif arguments.command == "replay":
        replay.replay(arguments)
    elif arguments.command == "sweep":
        sweep.sweep(arguments)
    elif arguments.command == "simulate":
        simulate.simulate(arguments)
    else:
        from qsmdl.cli.reconstruct import reconstruct

        reconstruct(arguments)


def main(words: Sequence[str] | None = None) -> None:
    """Entry point of `qsmdl`."""
    parser = make_parser()
    # argparse takes positional words in one place only; settings may stand anywhere among the options.
    arguments, rest = parser.parse_known_args(words)
    if rest and (arguments.command not in ("reconstruct", "simulate", "sweep") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    _check_arguments(parser, arguments, rest)
    if arguments.command in _KEEPING:
        keep_freed_memory()
    with reported():
        _run(arguments)
