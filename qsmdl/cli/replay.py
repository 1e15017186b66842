"""qsmdl replay: a batch at which training stopped, drawn again and sent through the network layer by layer."""

import argparse
from pathlib import Path


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command line of `qsmdl replay`."""
    parser = commands.add_parser(
        "replay",
        help="where in a network numbers stop being finite, for a batch at which training stopped",
        description="Draws the batch of FILE again, sends it through the weights from before that step, and tells for every layer whether its output "
        "is finite, and how large. Where all are, the gradients are told.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="nonfinite_step_STEP_rank_RANK.json in the folder of the training")
    parser.add_argument("--checkpoint", type=Path, help="weights of another checkpoint of that training (default: the one that FILE names)")
    parser.add_argument("--precision", metavar="NAME", help="32-true, bf16-mixed or 16-mixed (default: that of the training)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")


def replay(arguments: argparse.Namespace) -> None:
    """Run `qsmdl replay`. Raises InputError for a file that cannot be replayed."""
    from qsmdl.cli.replaying import run_replay

    run_replay(arguments)
