"""The truth guard: no truth in training, enforced where networks are judged and where they are trained.

The challenge's rule: "the truth must never enter the training set" (QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021;86:1241-1255).
It is enforced by what a network's record says it was trained on, and by comparing the volumes that it names with the truths. docs/truth-guard.md
tells what is caught and what is not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from qsmdl.challenge.evaluation_data import read_register
from qsmdl.challenge.matching import OUTLINE_THRESHOLD, Reference, detail_threshold, match
from qsmdl.challenge.release import find_scans
from qsmdl.challenge.truth import read_truth
from qsmdl.data.sources import recipe_digest
from qsmdl.errors import InputError
from qsmdl.io.fingerprint import Fingerprint, content_hash
from qsmdl.io.provenance import CARD_ENTRY, MadeBy, links_of, seal_problem, volumes_of
from qsmdl.io.weights import load_weights
from qsmdl.methods import Method
from qsmdl.networks.build import architecture_fingerprint
from qsmdl.scan import Truth

TRAINED_ON = {"train": "training", "validation": "validation"}
"""The streams that a training may draw from, and for what; "test" is kept for judging."""


@dataclass(frozen=True, slots=True)
class Attestation:
    """Whether the record of a network's training is complete, unchanged and free of what the rules forbid, and why (not)."""

    clean: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A training volume that agrees with a truth: what agrees ("values", "content", "mask", "outline"), their correlation, and the threshold."""

    volume: str
    truth: str
    what: str
    correlation: float
    threshold: float

    def __str__(self) -> str:
        agreement = {
            "values": "holds exactly the values of",
            "mask": "is exactly the mask of",
            "content": "shows the content of",
            "outline": "has the outline of the mask of",
        }[self.what]
        return f"{self.volume} {agreement} the truth {self.truth} (correlation {self.correlation:.3f}, limit {self.threshold:.2f})"


def _source_problem(source: Any) -> str | None:
    """What is wrong with one entry of what a network was trained on."""
    if not isinstance(source, dict):
        return "a source that is not described"
    if source.get("kind") == "folder":
        volumes = source.get("volumes")
        return None if isinstance(volumes, list) and volumes else "a folder without volumes"
    if source.get("kind") != "generator":
        return f"a source of the unknown kind {source.get('kind')!r}"
    stream = str(source.get("stream"))
    if stream not in TRAINED_ON or TRAINED_ON[stream] != source.get("use"):
        return f"the stream {source.get('stream')!r} of phantoms used for {source.get('use')!r}; training draws from 'train' only"
    if not all(isinstance(source.get(key), int) for key in ("seed", "n_volumes")):
        return "a generator without a seed or number of volumes"
    if not isinstance(source.get("recipe"), dict) or recipe_digest(source["recipe"]) != source.get("recipe_digest"):
        return "a generator whose recipe and digest differ"
    return None


def _link_problem(link: Mapping[str, Any], architecture: str) -> str | None:
    if link.get("made_by") not in get_args(MadeBy):
        return f"the record was made by {link.get('made_by')!r}; known are {', '.join(get_args(MadeBy))}"
    if link.get("earlier_problem") is not None:
        return f"training went on from a checkpoint that is not attested: {link['earlier_problem']}"
    if link.get("architecture") != architecture:
        return f"the record is of the architecture {link.get('architecture')}, but the card's network has {architecture}"
    sources = link.get("sources")
    if not isinstance(sources, list) or not any(isinstance(s, dict) and s.get("use") == "training" for s in sources):
        return "the record names nothing that the network was trained on"
    problem = next((p for p in map(_source_problem, sources) if p), None)
    return None if problem is None else f"the record names {problem}"


def check_record(card: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Attestation:
    """Whether the record in a card is there, sealed with these weights, unchanged, and names only generators and fingerprinted volumes.

    The volumes themselves are compared with truths by `check_truths`. Raises nothing: a card from anywhere gets a reason.
    """
    record = card.get(CARD_ENTRY)
    if record is None:
        return Attestation(False, "it carries no record of what it was trained on")
    try:
        problem = seal_problem(record, tensors)
        if problem is None:
            architecture = architecture_fingerprint(card["network"])
            problem = next((p for p in (_link_problem(link, architecture) for link in links_of(record)) if p), None)
        if problem is not None:
            return Attestation(False, problem)
        volumes = volumes_of(record)
        blank = next((volume.name for volume in volumes if volume.signature.is_blank), None)
        if blank is not None:
            return Attestation(False, f"the record's signature of {blank} is blank, so nobody can compare it with a truth")
    except (InputError, KeyError, TypeError, AttributeError) as error:
        return Attestation(False, f"its training record cannot be read ({error})")
    made = "made by the training itself" if all(link.get("made_by") == "training" for link in links_of(record)) else "declared afterwards"
    return Attestation(True, f"its record, {made}, names {f'{len(volumes)} volumes' if volumes else 'generated phantoms only'}")


def _plain(tensor: Tensor) -> Any:
    return tensor.detach().cpu().numpy()


class TruthIndex:
    """Truths to compare training volumes with; those of equal content are compared once."""

    def __init__(self, truths: Mapping[str, Truth]) -> None:
        self.references: dict[str, Reference] = {}
        self.exact: dict[str, tuple[str, str]] = {}
        self._compared: dict[str, Hit | None] = {}
        for name, truth in truths.items():
            content, brain = content_hash(truth.chi_ppm), truth.mask if truth.brain_mask is None else truth.brain_mask
            for mask in (truth.mask, brain):
                self.exact.setdefault(content_hash(mask), (name, "mask"))
            if self.exact.get(content, ("", ""))[1] != "values":
                self.exact[content] = (name, "values")
                values = np.where(_plain(brain), _plain(truth.chi_ppm), 0).astype(np.float32)
                scored = None if torch.equal(brain, truth.mask) else _plain(truth.mask)
                self.references[name] = Reference(values, _plain(brain), truth.geometry.voxel_size_mm, scored)

    def hit(self, volume: Fingerprint) -> Hit | None:
        """The first agreement of a volume with a truth that is beyond chance; volumes of equal content are compared once."""
        if volume.content not in self._compared:
            self._compared[volume.content] = self._hit(volume)
        return self._compared[volume.content]

    def _hit(self, volume: Fingerprint) -> Hit | None:
        if volume.content in self.exact:
            name, what = self.exact[volume.content]
            return Hit(volume.name, name, what, 1.0, 1.0)
        for name, reference in self.references.items():
            found = match(reference, volume.signature)
            if found.is_detail_hit:
                return Hit(volume.name, name, "content", found.correlation, detail_threshold(found.overlap_l))
            if found.is_outline_hit:
                return Hit(volume.name, name, "outline", found.outline, OUTLINE_THRESHOLD)
        return None


def find_hits(volumes: Iterable[Fingerprint], truths: Mapping[str, Truth] | TruthIndex) -> list[Hit]:
    """All volumes that agree with one of the truths or its mask (about a second for each pair)."""
    index = truths if isinstance(truths, TruthIndex) else TruthIndex(truths)
    return [hit for hit in map(index.hit, volumes) if hit is not None]


def check_truths(volumes: Iterable[Fingerprint], truths: Mapping[str, Truth] | TruthIndex, *, trained: str = "the training") -> None:
    """Raises InputError where a training volume agrees with a truth or its mask, naming both, the correlation and the remedy.

    trained: whose volumes they are, for the message.
    """
    hits = find_hits(volumes, truths)
    if hits:
        more = f", and {len(hits) - 1} more" if len(hits) > 1 else ""
        raise InputError(
            f"A truth is among the volumes of {trained}: {hits[0]}{more}. The challenge forbids it: remove every volume of that head from the "
            "training set and train again from the start, or judge on other data."
        )


def check_registered(volumes: Iterable[Fingerprint], *, trained: str = "the training") -> None:
    """Raises InputError as `check_truths` where a training volume agrees with evaluation data that were made on this machine
    (`challenge.evaluation_data`).
    """
    known = list(volumes)
    entries = {f"{entry.name} (evaluation data number {n})": entry for n, entry in enumerate(read_register() if known else (), start=1)}
    if entries:
        index = TruthIndex({name: entry.truth for name, entry in entries.items()})
        index.exact |= {content: (name, what) for name, entry in entries.items() for content, what in entry.exact.items()}
        check_truths(known, index, trained=trained)


@dataclass(frozen=True)
class Admission:
    """Which networks may enter. attested: of each network by name; volumes: what each was trained on, as far as it was volumes."""

    attested: Mapping[str, bool] = field(default_factory=dict)
    volumes: Mapping[str, Sequence[Fingerprint]] = field(default_factory=dict)

    def check_truths(self, truths: Mapping[str, Truth]) -> None:
        """Raises InputError where one of the networks was trained on one of the truths, or on evaluation data that were made on this machine; to be
        called once the truths may be opened, before scoring.
        """
        index = TruthIndex(truths if any(self.volumes.values()) else {})
        for name, volumes in self.volumes.items():
            check_truths(volumes, index, trained=name)
            check_registered(volumes, trained=name)


def _volumes_of_card(card: Mapping[str, Any]) -> list[Fingerprint]:
    """What a card names, as far as it can be read: a broken record does not hide a truth that it still names."""
    try:
        return volumes_of(card[CARD_ENTRY])
    except (InputError, KeyError, TypeError, AttributeError):
        return []


def admit(methods: Sequence[Method], *, allow_unattested: bool = False) -> Admission:
    """Whether the networks among the methods (all that take a checkpoint, or call themselves deep learning) may enter the deep-learning track;
    reads no truth.

    Raises InputError for a network without a clean record, unless allow_unattested, which lets it in with attested False. Methods without a network
    are not listed.
    """
    attested, volumes = {}, {}
    for method in methods:
        path = method.weights_path
        if path is None and method.kind != "deep learning":
            continue
        tensors, card = load_weights(path) if path is not None else ({}, {})
        attestation = check_record(card, tensors)
        if not attestation.clean and not allow_unattested:
            raise InputError(
                f"{method.name} may not enter the deep-learning track: {attestation.reason} ({path or 'no weights file'}). Train with train.py, "
                "which records it, or attest weights from elsewhere with qsmdl attest; allow_unattested=true lets it in and marks its rows."
            )
        attested[method.name], volumes[method.name] = attestation.clean, _volumes_of_card(card)
    return Admission(attested, volumes)


def read_truths(roots: Iterable[str | Path]) -> dict[str, Truth]:
    """The truths of releases, named by their folders. Raises InputError: no release there, or none of its scans has a truth."""
    truths: dict[str, Truth] = {}
    for root in roots:
        found = {str(scan.folder): read_truth(scan.folder) for scan in find_scans(root) if scan.has_truth}
        if not found:
            raise InputError(f"The release {root} holds no truth, so training volumes cannot be compared with it. Remove it from guard.releases.")
        truths |= found
    return truths
