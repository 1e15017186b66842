"""The challenge's rules on what may change between its stages, and what may be tuned against the truth.

Source: QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021;86:1241-1255. Stage 1: no truth, and one pipeline with the same parameters or
the same rule for choosing them for both simulations. Stage 2: closed-form and iterative methods may tune their parameters against the truth; deep
learning may change epochs, batch size and the like, but not the architecture, and the truth must never enter the training set.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qsmdl.errors import InputError
from qsmdl.io.files import read_json
from qsmdl.io.weights import load_weights
from qsmdl.methods import Method
from qsmdl.networks.build import architecture_fingerprint

RULES = {
    1: "no truth is opened before every map is written; one setting of each method, or one rule for choosing it (`select`), for all scans",
    2: "direct and iterative methods are tuned against the truth, with the same number of trials each; networks keep the architecture of stage 1, "
    "and of them only the schedule of the fit at test time is tuned",
}
NETWORK_TUNABLE = ("n_steps", "learning_rate", "time_budget_s")
"""The settings of a network's fit at test time (FINE) that count as "epochs, batch size and the like"."""


def architectures(methods: Sequence[Method]) -> dict[str, str]:
    """The fingerprint of the architecture of every method that runs a network, by name."""
    found = {}
    for method in methods:
        path = method.weights_path
        if path is None:
            continue
        card = load_weights(path)[1]
        if not isinstance(card.get("network"), dict):
            raise InputError(f"The card of {path} names no network, so the architecture of {method.name} is unknown. Export weights with train.py.")
        found[method.name] = architecture_fingerprint(card["network"])
    return found


def _stage_1_methods(path: Path) -> Mapping[str, Any]:
    protocol = read_json(path)
    if not isinstance(protocol, dict) or protocol.get("stage") != 1 or not isinstance(protocol.get("methods"), dict):
        raise InputError(f"{path} is not the protocol of a stage-1 run. stage1 names the protocol.json that evaluate.py stage=1 wrote.")
    if protocol.get("state") == "reconstructing":
        raise InputError(f"{path} belongs to a stage-1 run that has not written all of its maps. Finish that run first: call it again.")
    methods: dict[str, Any] = protocol["methods"]
    return methods


def check_architectures(now: Mapping[str, str], stage1: Path | None) -> None:
    """Raises InputError for a network whose architecture is not that of stage 1 (both fingerprints named), one that was not in stage 1, or where
    nobody says what stage 1 had.
    """
    if not now:
        return
    if stage1 is None:
        raise InputError(
            f"Stage 2 holds networks ({', '.join(now)}), whose architecture must be that of stage 1: name its protocol.json as stage1=PATH, or leave "
            "the networks out with method=[...]."
        )
    before = _stage_1_methods(Path(stage1))
    for name, fingerprint in now.items():
        entry = before.get(name)
        earlier = entry.get("architecture") if isinstance(entry, dict) else None
        if earlier is None:
            raise InputError(f"{name} was not among the networks of stage 1 ({stage1}); stage 2 takes only those. Run stage 1 with it first.")
        if earlier != fingerprint:
            raise InputError(
                f"The architecture of {name} has changed since stage 1: its fingerprint was {earlier} ({stage1}) and is now {fingerprint}. "
                "The challenge allows other weights and schedules in stage 2, but not another architecture: use a checkpoint of the same network."
            )


def check_search(method: Method, names: Sequence[str]) -> None:
    """Raises InputError where a network's settings beyond the schedule of its fit would be tuned against the truth."""
    is_network = method.kind == "deep learning" or method.weights_path is not None
    forbidden = sorted(set(names) - set(NETWORK_TUNABLE)) if is_network else []
    if forbidden:
        raise InputError(
            f"search.{method.name} would tune {forbidden[0]} against the truth, but of a network only {', '.join(NETWORK_TUNABLE)} may be "
            "(epochs, batch size and the like). Remove it from the search."
        )
