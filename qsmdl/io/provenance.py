"""The record of what a network was trained on, sealed by hashes.

A record is plain JSON. Its seal is the SHA-256 of its canonical text, in which the SHA-256 of the weights stands too, so neither record nor weights
can be exchanged unnoticed. A hash is no secret: whoever wants to can write a false record and seal it. The seal detects accidents and casual edits,
and fixes what a trainer claims, so that the claim can be checked and quoted; it does not prove that the claim is true.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from qsmdl import __version__
from qsmdl.errors import InputError
from qsmdl.io.evaluation import check_not_evaluation_data
from qsmdl.io.fingerprint import Fingerprint, Signature, fingerprint_folder

CARD_ENTRY = "record"
"""The entry of a card (and of a Lightning checkpoint) that holds the record."""
FORMAT = 1
MadeBy = Literal["training", "declaration"]
Source = dict[str, Any]


def canonical_json(content: Any) -> str:
    """The one text of plain content: sorted keys, no spaces, no NaN. Raises InputError for content that JSON does not know."""
    try:
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"A training record holds what JSON does not know: {error}. Finite numbers, texts, lists and dicts will do.") from error


def _digest(content: Any) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values of tensors, in alphabetical order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def folder_source(folder: Path | str, *, use: str = "training") -> tuple[Source, list[Fingerprint]]:
    """The source entry of a folder of NIfTI volumes, and the fingerprints it refers to.

    Raises InputError as `fingerprint_folder`, and for a folder that is marked as evaluation data.
    """
    check_not_evaluation_data(folder)
    found = fingerprint_folder(folder)
    volumes = [{"name": f.name, "content": f.content, "shape": list(f.shape)} for f in found]
    return {"kind": "folder", "use": use, "folder": Path(folder).name, "volumes": volumes}, found


def make_record(
    sources: Sequence[Source],
    *,
    architecture: str,
    fingerprints: Sequence[Fingerprint] = (),
    n_steps: int | None = None,
    made_by: MadeBy = "training",
    earlier: Mapping[str, Any] | None = None,
    earlier_problem: str | None = None,
) -> dict[str, Any]:
    """A record without its seal.

    sources: what the network was trained and validated on (`data.sources.generator_source`, `folder_source`); architecture: its fingerprint;
    fingerprints: of the volumes that folder sources name; n_steps: done so far, None where unknown; made_by: "training", or "declaration" by somebody
    afterwards; earlier: the sealed record of the checkpoint the training went on from, whose chain is carried along; earlier_problem: why that
    checkpoint has no good record, which makes this one unclean.
    """
    volumes = dict(earlier["volumes"]) if earlier else {}
    volumes |= {f.content: f.signature.encode() for f in fingerprints}
    chain = [*earlier["earlier"], {k: v for k, v in earlier.items() if k not in ("volumes", "earlier")}] if earlier else []
    return {
        "format": FORMAT,
        "made_by": made_by,
        "qsmdl_version": __version__,
        "architecture": architecture,
        "n_steps": n_steps,
        "sources": list(sources),
        "volumes": volumes,
        "earlier": chain,
        "earlier_problem": earlier_problem,
    }


def seal(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The record with the hash of the weights and its own.

    The hash is taken over the record with `volumes` and `earlier` replaced by their hashes, so that it can still be checked in the chain of a later
    record, which keeps one copy of the volumes for all.
    """
    open_record = {key: value for key, value in record.items() if key not in _SEAL}
    said = open_record | {"weights": tensors_digest(tensors)}
    said |= {"volumes_digest": _digest(said["volumes"]), "earlier_digest": _digest(said["earlier"])}
    return said | {"seal": _seal_of(said)}


def _seal_of(record: Mapping[str, Any]) -> str:
    return _digest({key: value for key, value in record.items() if key not in ("volumes", "earlier", "seal")})


def seal_problem(record: Any, tensors: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the seals of a record and of those in its chain, in words; None where nothing is."""
    if not isinstance(record, dict) or not isinstance(record.get("volumes"), dict) or not isinstance(record.get("earlier"), list):
        return "the training record is not of the form that qsmdl writes"
    if record.get("format") != FORMAT:
        return f"the training record has the format {record.get('format')!r}, but {FORMAT} is known"
    if record.get("weights") != tensors_digest(tensors):
        return "the weights are not those that the training record was sealed with"
    if record.get("volumes_digest") != _digest(record["volumes"]) or record.get("earlier_digest") != _digest(record["earlier"]):
        return "the training record was changed after it was sealed (its volumes or earlier records)"
    before: list[Any] = []
    for link in [*record["earlier"], record]:
        if not isinstance(link, dict) or link.get("seal") != _seal_of(link):
            return "the training record was changed after it was sealed"
        if link.get("earlier_digest") != _digest(before):
            return "the chain of earlier training records has gaps"
        before = [*before, {k: v for k, v in link.items() if k not in ("volumes", "earlier")}]
    return None


def links_of(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The record and those of the checkpoints it went on from, oldest first."""
    return [*record["earlier"], record]


def volumes_of(record: Mapping[str, Any]) -> list[Fingerprint]:
    """The fingerprints of all volumes that a record and its chain name. Raises InputError: a named volume without signature."""
    found: dict[str, Fingerprint] = {}
    for link in links_of(record):
        for source in link["sources"]:
            for volume in source.get("volumes", ()) if source.get("kind") == "folder" else ():
                content, name = str(volume["content"]), f"{source['folder']}/{volume['name']}"
                if content not in record["volumes"]:
                    raise InputError(f"The training record names the volume {name}, but holds no signature of it. Attest the weights again.")
                found[content] = Fingerprint(name, content, tuple(volume["shape"]), Signature.decode(record["volumes"][content]))
    return list(found.values())


_SEAL = ("weights", "volumes_digest", "earlier_digest", "seal")
