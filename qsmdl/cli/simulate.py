"""qsmdl simulate: built-in phantoms, or the head of the challenge's toolbox, in the layouts of the challenge, BIDS and QSM-CI."""

import argparse
from pathlib import Path


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command line."""
    parser = commands.add_parser("simulate", help="write built-in phantoms in the challenge's layout, in BIDS or for QSM-CI, truth included")
    parser.add_argument("out", type=Path, help="folder to make; the scans are its sub-folders Sim1 and Sim2")
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
    parser.add_argument(
        "--from-toolbox",
        type=Path,
        metavar="DIR",
        help="scan the head in the data of the challenge's toolbox (chimodel/, maps/, masks/) by the challenge's protocol; default stage 2. "
        "What is written is evaluation data: it is marked and registered, and never trained on",
    )
    parser.add_argument(
        "--gallery", type=int, metavar="N", help="no scans, but pictures of N samples of training data, their parameters, and what is drawn how often"
    )
    parser.add_argument("--phantom", default="engine", metavar="NAME", help="of --gallery: which of configs/phantom (default engine)")
    parser.add_argument("--acquisition", default="engine", metavar="NAME", help="of --gallery: which of configs/acquisition (default engine)")
    parser.add_argument("--overwrite", action="store_true", help="replace scans that exist")


def simulate(arguments: argparse.Namespace) -> None:
    """Run `qsmdl simulate`. Raises InputError for arguments that cannot be."""
    if arguments.gallery is not None:
        from qsmdl.cli.gallery import gallery

        gallery(arguments)
    else:
        from qsmdl.cli.simulation import run_simulation

        run_simulation(arguments)
