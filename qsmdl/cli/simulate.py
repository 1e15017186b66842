"""qsmdl simulate: built-in phantoms, or the head of the challenge's toolbox, in the layouts of the challenge, BIDS and QSM-CI; pictures of training
data, and fixed sets of them.
"""

import argparse
from pathlib import Path

from qsmdl.errors import InputError


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command line."""
    parser = commands.add_parser("simulate", help="write built-in phantoms in the challenge's layout, in BIDS or for QSM-CI, truth included")
    parser.add_argument("out", type=Path, help="folder to make; the scans are its sub-folders Sim1 and Sim2")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of --set: settings as train.py takes them, such as phantom=engine")
    parser.add_argument("--seed", type=int, default=0, help="which head (default 0); the same seed gives the same files")
    parser.add_argument("--contrast", choices=("sim1", "sim2", "both"), default="both", help="tissue contrast (default both)")
    parser.add_argument("--voxel-size", type=float, default=1.0, metavar="MM", help="isotropic (default 1: 164 x 205 x 205 voxels)")
    parser.add_argument("--peak-snr", type=float, default=100.0, help="maximum of the first echo over the noise (default 100: stage 1)")
    parser.add_argument("--orientations", type=int, default=1, metavar="N", help="of each head to B0, up to 5, for COSMOS (default 1)")
    parser.add_argument("--no-truth", action="store_true", help="leave GT/ out, as in stage 1")
    parser.add_argument("--conventions", action="store_true", help="write the truth in other conventions too: GT/Chi_crop, GT/Chi_cell")
    parser.add_argument(
        "--layout", default="rc2", metavar="NAMES", help="rc2 (default), bids, qsm-ci, or several with commas, then as sub-folders of these names"
    )
    parser.add_argument(
        "--stage",
        type=int,
        choices=(1, 2),
        help="of the challenge: 1 writes Sim1 and Sim2, 2 writes Sim1Snr1 to Sim2Snr2 (Snr2: ten times --peak-snr); in the layout rc2 their truths "
        "lie apart, in Sim1GT and Sim2GT",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--from-toolbox",
        type=Path,
        metavar="DIR",
        help="scan the head in the data of the challenge's toolbox (chimodel/, maps/, masks/) by the challenge's protocol; default stage 2. "
        "What is written is evaluation data: it is marked and registered, and never trained on",
    )
    what.add_argument(
        "--gallery", type=int, metavar="N", help="no scans, but pictures of N samples of training data, their parameters, and what is drawn how often"
    )
    what.add_argument(
        "--set",
        type=int,
        metavar="N",
        help="no scans, but the volumes that a training with the settings KEY=VALUE and this --seed draws first, for data.cache.folder of train.py; "
        "whole ones that are there are kept, so the same call goes on where one ended",
    )
    parser.add_argument("--first", type=int, default=0, metavar="K", help="of --set: volumes K to K + N - 1 (default 0)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="of --set: processes that render, each with one thread (default 1)")
    parser.add_argument("--phantom", metavar="NAME", help="of --gallery: which of configs/phantom (default engine)")
    parser.add_argument("--acquisition", metavar="NAME", help="of --gallery: which of configs/acquisition (default engine)")
    parser.add_argument("--overwrite", action="store_true", help="replace scans that exist")


def simulate(arguments: argparse.Namespace) -> None:
    """Run `qsmdl simulate`. Raises InputError for arguments that cannot be."""
    if arguments.settings and arguments.set is None:
        raise InputError(f"{arguments.settings[0]!r} is a setting of a training, which only --set takes. Leave it out.")
    if arguments.set is not None:
        from qsmdl.cli.filling import fill_set

        fill_set(arguments)
    elif arguments.gallery is not None:
        from qsmdl.cli.gallery import gallery

        gallery(arguments)
    else:
        from qsmdl.cli.simulation import run_simulation

        run_simulation(arguments)
