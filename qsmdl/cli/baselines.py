"""qsmdl baselines: every method on the built-in pair or on the scans of a folder, and the table of them all."""

import argparse
from pathlib import Path


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command line of `qsmdl baselines`."""
    parser = commands.add_parser(
        "baselines",
        help="every method on the built-in pair or on your scans, and the table of them all",
        description="Runs every method on every scan, each in a process of its own, and writes FOLDER/maps, rows.json, rows.csv and baselines.md. "
        "Call it again to go on: what is there is kept unless its settings changed. A method that fails does not stop the others.",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="where everything goes")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="which (default: all; see qsmdl methods)")
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="which not")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME.KEY=VALUE", help="settings of methods, as in tv.regularisation=1e-4")
    parser.add_argument("--again", nargs="+", default=[], metavar="NAME", help="methods to run again although their maps are there")
    parser.add_argument("--scans", type=Path, metavar="RELEASE", help="a folder of scans in the challenge's layout (default: the built-in pair)")
    parser.add_argument("--voxel-size", type=float, default=1.0, metavar="MM", help="of the built-in pair (default 1: 164 x 205 x 205 voxels)")
    parser.add_argument("--peak-snr", type=float, default=100.0, help="of the built-in pair (default 100: stage 1)")
    parser.add_argument("--seed", type=int, default=0, help="which built-in head, and of everything random (default 0)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--minutes", type=float, default=60.0, metavar="MIN", help="after which a method on a scan counts as failed (default 60)")
    parser.add_argument("--allow-unattested", action="store_true", help="networks without a clean training record enter too, and are marked")
    parser.add_argument("--page", type=Path, metavar="FILE.md", help="write the table here as well")


def baselines(arguments: argparse.Namespace) -> None:
    """Run `qsmdl baselines`. Raises InputError for arguments that cannot be; what fails later is told in the table."""
    from qsmdl.cli.baseline_runs import run_baselines

    run_baselines(arguments)
