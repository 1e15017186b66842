"""qsmdl sweep: trainings with drawn settings, to find those of the smallest validation error."""

import argparse
from pathlib import Path


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command line of `qsmdl sweep`."""
    parser = commands.add_parser(
        "sweep",
        help="trainings with drawn settings, to find those of the smallest validation error",
        description="Runs train.py with the settings KEY=VALUE and drawn ones, each training in FOLDER/trial_NNN, and writes trials.json and "
        "trials.csv, the best first. Call it again to go on: trials that ended are kept, one that was interrupted goes on, a larger N adds trials.",
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of all trials, as train.py takes them, such as experiment=unet_quick")
    parser.add_argument("--study", type=Path, required=True, metavar="FOLDER", help="where everything goes")
    what = "what is drawn: {setting: {low, high, log} or {choices}}, or a name of configs/sweep"
    parser.add_argument("--space", required=True, metavar="FILE.yaml", help=what)
    parser.add_argument("--trials", type=int, required=True, metavar="N", help="how many, failed ones counted")


def sweep(arguments: argparse.Namespace) -> None:
    """Run `qsmdl sweep`. Raises InputError for settings or a space that cannot be."""
    from qsmdl.cli.sweeping import run_sweep

    run_sweep(arguments)
