"""qsmdl attest: what a network was trained on, said, checked and sealed into its weights."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from qsmdl.challenge.guard import check_record, check_registered, check_truths, read_truths
from qsmdl.cli.progress import console
from qsmdl.data.recipe import Recipe
from qsmdl.data.sources import generator_source
from qsmdl.errors import InputError
from qsmdl.io.provenance import CARD_ENTRY, Source, folder_source, make_record, seal, volumes_of
from qsmdl.io.weights import load_weights, save_weights
from qsmdl.networks.build import architecture_fingerprint


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command line."""
    parser = commands.add_parser(
        "attest",
        help="add the record of what a network was trained on to its weights, or check it",
        description="Without -o, tells whether the weights carry a clean record. With -o, writes them again with a record: of the generator whose "
        "recipe and seed their card holds, and of the volumes in the folders named. What is declared so is a claim, sealed by hashes, not a proof.",
    )
    parser.add_argument("weights", type=Path, help="a .safetensors file with qsmdl's card")
    parser.add_argument("--volumes", type=Path, action="append", default=[], metavar="FOLDER", help="with all NIfTI volumes it was trained on")
    parser.add_argument("--release", type=Path, action="append", default=[], metavar="ROOT", help="whose truths they are compared with")
    parser.add_argument("-o", "--output", type=Path, help="the weights with their record, .safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")


def _generator(card: Mapping[str, Any]) -> list[Source]:
    """What the card says of qsmdl's generator. Every step drew on at most one new volume."""
    if "recipe" not in card:
        return []
    recipe, training = Recipe(**card["recipe"]), card["training"]
    if recipe.digest != card.get("recipe_digest"):
        raise InputError(f"The card's recipe has the digest {recipe.digest}, but the card says {card.get('recipe_digest')}: one of them was changed.")
    return [generator_source(recipe, stream="train", seed=int(training["seed"]), n_volumes=int(training["steps_done"]))]


def declare(card: Mapping[str, Any], tensors: Mapping[str, Tensor], folders: Sequence[Path] = ()) -> dict[str, Any]:
    """The card with a sealed record of the generator that it names (recipe, recipe_digest, training.seed, training.steps_done) and of the volumes in
    folders. Raises InputError: the card has a record already, or it and the folders name nothing that the network was trained on.
    """
    if CARD_ENTRY in card:
        raise InputError("The weights carry a record already, and a record is not replaced. Without -o, qsmdl attest tells what it is worth.")
    try:
        sources, architecture = _generator(card), architecture_fingerprint(card["network"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"The card cannot be attested ({error!r}). It needs network, recipe, recipe_digest and training.") from error
    found = [folder_source(folder) for folder in folders]
    sources += [source for source, _ in found]
    if not sources:
        raise InputError("The card names no generator, so say what the network was trained on: --volumes FOLDER.")
    fingerprints = [fingerprint for _, some in found for fingerprint in some]
    steps = card.get("training", {}).get("steps_done")
    record = make_record(sources, architecture=architecture, fingerprints=fingerprints, n_steps=steps, made_by="declaration")
    return {**card, CARD_ENTRY: seal(record, tensors)}


def attest(arguments: argparse.Namespace) -> None:
    """Check a record or, with an output, add one."""
    tensors, card = load_weights(arguments.weights)
    if arguments.volumes and arguments.output is None:
        raise InputError("--volumes declares what a record is to hold, so say with -o where the weights with their record go.")
    if arguments.output is not None:
        card = declare(card, tensors, arguments.volumes)
    attestation = check_record(card, tensors)
    if not attestation.clean:
        raise InputError(f"{arguments.weights} is not attested: {attestation.reason}.")
    check_registered(volumes_of(card[CARD_ENTRY]), trained=str(arguments.weights))
    if arguments.release:
        check_truths(volumes_of(card[CARD_ENTRY]), read_truths(arguments.release), trained=str(arguments.weights))
    if arguments.output is not None:
        save_weights(arguments.output, tensors, card, overwrite=arguments.overwrite)
    console.print(f"{arguments.output or arguments.weights} is attested: {attestation.reason}")
