"""qsmdl heldout: a method against the classical ones on phantoms that nothing was trained or tuned on, and the verdict."""

import argparse
from pathlib import Path

from qsmdl.challenge.heldout import STUDY_SEED
from qsmdl.challenge.heldout_verdict import PEAK_SNRS


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command line of `qsmdl heldout`."""
    parser = commands.add_parser(
        "heldout",
        help="does a method beat the classical ones on held-out phantoms?",
        description="Runs methods on held-out built-in phantoms at several SNRs, each map with and without the removal of ringing, and writes "
        "OUT/rows, rows.json, heldout.md and heldout.png: a candidate against every classical method, paired by phantom. Call it again to go on; "
        "phantoms, SNRs and methods may be added. Rows of other settings are refused.",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="where everything goes")
    parser.add_argument(
        "--methods", nargs="+", required=True, metavar="NAME", help="which; LABEL=NAME calls a method otherwise, for one with two settings"
    )
    parser.add_argument("--candidate", metavar="NAME", help="which is to be judged (default: the first of --methods); NAME+unring is possible")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME.KEY=VALUE", help="settings of methods, as in nltv.select=zero")
    parser.add_argument("--phantoms", type=int, default=20, metavar="N", help="numbers 0 to N - 1 (default 20)")
    parser.add_argument("--snr", nargs="+", type=float, default=list(PEAK_SNRS), help="peak SNRs (default 30 100 300 1000)")
    parser.add_argument("--voxel-size", type=float, default=1.0, metavar="MM", help="in the plane (default 1: 164 x 205 x 205 voxels)")
    parser.add_argument("--seed", type=int, default=STUDY_SEED, help=f"which phantoms, and of everything random (default {STUDY_SEED})")
    parser.add_argument("--again", nargs="+", default=[], metavar="NAME", help="methods to run anew; their rows are removed first")
    parser.add_argument(
        "--only", nargs="+", type=int, metavar="N", help="run what is missing of these phantoms and do not compare yet: to share a study out"
    )
    parser.add_argument("--device", default="cpu", help="of the methods: cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--allow-unattested", action="store_true", help="networks without a clean training record enter too, and are marked")


def heldout(arguments: argparse.Namespace) -> None:
    """Run `qsmdl heldout`. Raises InputError for arguments that cannot be, and for rows of other settings."""
    from qsmdl.cli.heldout_runs import run_heldout

    run_heldout(arguments)
