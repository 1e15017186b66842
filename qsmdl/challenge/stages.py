"""The two stages of the QSM Reconstruction Challenge 2.0 as a run in a folder, which goes on where it was killed.

The order is the point. `reconstruct_all` writes the map of every method on every scan and knows no truth; only the `Sealed` that it returns opens the
way to `score_all`, which reads the truths. Stage 2 chooses settings against the truth before (`choosing`).
Source: QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021;86:1241-1255.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from qsmdl.challenge.cases import FieldSource, read_case
from qsmdl.challenge.maps import MapStore, StoredMap, describe, made_from
from qsmdl.challenge.protocol import Row
from qsmdl.challenge.record import STATES, Record
from qsmdl.challenge.release import ReleaseScan, check_truth
from qsmdl.challenge.rules import RULES, architectures, check_architectures
from qsmdl.challenge.run import Case, Scoring, digest_of, reconstruct, scored
from qsmdl.challenge.truth import read_truth
from qsmdl.errors import InputError
from qsmdl.methods import Method
from qsmdl.scan import Truth
from qsmdl.units import GAMMA_MHZ_PER_TESLA

CheckTruths = Callable[[Mapping[str, Truth]], None]
Settings = Mapping[tuple[str, str], Mapping[str, Any]]
"""Settings that were chosen for (method, scan), where they differ from the method's own."""


@dataclass(frozen=True)
class Plan:
    """What a run is: methods on scans into a folder.

    gamma_mhz_per_tesla: for Frequency maps; attested: of each network, whether the record of its training is clean; stage1: the protocol of stage 1,
    for stage 2 with networks; check_truths: called with the truths before anything is scored or tuned against them, and free to refuse.
    """

    stage: int
    folder: Path
    scans: Sequence[ReleaseScan]
    methods: Sequence[Method]
    field_source: FieldSource = "fit"
    gamma_mhz_per_tesla: float = GAMMA_MHZ_PER_TESLA
    seed: int = 0
    scoring: Scoring = field(default_factory=Scoring)
    attested: Mapping[str, bool] = field(default_factory=dict)
    stage1: Path | None = None
    check_truths: CheckTruths | None = None

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        if not names or not self.scans:
            raise InputError("A stage needs at least one method and one scan.")
        if len(set(names)) < len(names):
            raise InputError(f"Two methods have one name in {', '.join(names)}. Give them different names.")

    @property
    def field_settings(self) -> dict[str, Any]:
        """How field maps are had."""
        return {"field": self.field_source, "gamma_mhz_per_tesla": self.gamma_mhz_per_tesla}

    def read(self, scan: ReleaseScan) -> Case:
        """One scan, without truth."""
        return read_case(scan, field=self.field_source, gamma_mhz_per_tesla=self.gamma_mhz_per_tesla)


@dataclass(frozen=True)
class Events:
    """What a run tells while it goes. on_step(method, scan, step, value); on_map(row, whether it was there already)."""

    on_step: Callable[[str, str, int, float], None] = lambda *_: None
    on_map: Callable[[Row, bool], None] = lambda *_: None


@dataclass(frozen=True)
class Sealed:
    """Proof that every map is on disk: the stored maps by (scan, method) with the settings each was made with. Only `reconstruct_all` makes one."""

    store: MapStore
    maps: Mapping[tuple[str, str], StoredMap]
    settings: Mapping[tuple[str, str], Mapping[str, Any]]


def content_of(case: Case) -> str:
    """A hash of what a scan holds: echoes, mask, field map, geometry."""
    scan, geometry = case.scan, case.field.geometry
    tensors = [case.field.mask, case.field.field_ppm] + ([] if scan is None else [scan.magnitude, scan.phase_rad])
    numbers = [geometry.voxel_size_mm, geometry.b0_direction, geometry.b0_tesla, () if scan is None else scan.echo_times_s]
    for other in case.orientations:
        tensors += [other.mask, other.field_ppm]
        numbers.append(other.geometry.b0_direction)
    return f"{digest_of(*tensors)} {numbers}"


def check_scans(plan: Plan) -> dict[str, str]:
    """Reads every scan once, so that a damaged one is named before anything is computed: the content of each, by name. Opens no truth."""
    return {scan.name: content_of(plan.read(scan)) for scan in plan.scans}


def prepare(plan: Plan, contents: Mapping[str, str], **fixed: Any) -> Record:
    """The protocol of a run, after checking the networks' architectures against stage 1; nothing is written."""
    found = architectures(plan.methods)
    if plan.stage == 2:
        check_architectures(found, plan.stage1)
    methods = {m.name: describe(m) | {"architecture": found.get(m.name), "attested": plan.attested.get(m.name)} for m in plan.methods}
    scans = {scan.name: {"content": contents[scan.name], "truth": scan.has_truth} for scan in plan.scans}
    data = {**plan.field_settings, "scans": scans}
    return Record(plan.folder, {"stage": plan.stage, "rule": RULES[plan.stage], "seed": plan.seed, "data": data, "methods": methods, **fixed})


def begin(plan: Plan, contents: Mapping[str, str], **fixed: Any) -> Record:
    """Take the run's folder, with what `prepare` checks and an earlier call's protocol checked against this one's."""
    record = prepare(plan, contents, **fixed)
    record.begin()
    return record


def reconstruct_all(plan: Plan, contents: Mapping[str, str], chosen: Settings, record: Record, events: Events) -> Sealed:
    """The map of every method on every scan, written; those of an earlier call are kept. No truth is opened."""
    store, maps, settings = MapStore(plan.folder), {}, {}
    for scan in plan.scans:
        case: Case | None = None
        for base in plan.methods:
            key = (scan.name, base.name)
            method = base.with_settings(chosen.get((base.name, scan.name), {}))
            source = made_from(method, scan.name, contents[scan.name], seed=plan.seed, field=plan.field_settings)
            _check_weights(base, source, record)
            stored = store.find(*key, source)
            reused = stored is not None
            if stored is None:
                case = case or plan.read(scan)
                stored = _reconstruct_one(plan, method, case, store, source, events)
            maps[key], settings[key] = stored, source["settings"]
            events.on_map(stored.row, reused)
    sealed = Sealed(store, maps, settings)
    record.write(STATES[1], rows=_row_notes(sealed))
    return sealed


def _check_weights(method: Method, source: Mapping[str, Any], record: Record) -> None:
    """The weights that were admitted when the run began must be those that make its maps, hours later."""
    if source["weights_sha256"] != record.fixed["methods"][method.name]["weights_sha256"]:
        raise InputError(
            f"{method.weights_path} has changed since this run began, so the network {method.name} is no longer the one that was admitted. Put the "
            "file back and call again, or choose another hydra.run.dir."
        )


def _reconstruct_one(plan: Plan, method: Method, case: Case, store: MapStore, source: Mapping[str, Any], events: Events) -> StoredMap:
    state_path = plan.folder / f"{case.name}_{method.name}.fine_state.safetensors"

    def on_step(step: int, value: float) -> None:
        events.on_step(method.name, case.name, step, value)

    chi, row = reconstruct(method, case, seed=plan.seed, on_step=on_step, state_path=state_path)
    said = cast(Row, {**row, "attested": plan.attested.get(method.name), "stage": plan.stage})
    return store.keep(chi, said, case, source)


def _row_notes(sealed: Sealed) -> list[dict[str, Any]]:
    notes = []
    for (scan, method), stored in sealed.maps.items():
        note: dict[str, Any] = {"scan": scan, "method": method, "settings": dict(sealed.settings[scan, method])}
        if stored.choice is not None:
            note |= {"chosen": {stored.choice.parameter: stored.choice.value}, "chosen_by": stored.choice.rule}
        notes.append(note)
    return notes


def read_truths(plan: Plan) -> dict[str, Truth]:
    """The truths of all scans that have one, checked together. Raises InputError for one that does not belong to its scan."""
    truths = {}
    for scan in plan.scans:
        if scan.has_truth:
            truths[scan.name] = read_truth(scan.folder)
            check_truth(scan, truths[scan.name])
    if plan.check_truths is not None:
        plan.check_truths(truths)
    return truths


def score_all(plan: Plan, sealed: Sealed, record: Record) -> tuple[list[Row], dict[str, Truth]]:
    """The rows of all maps, scored as they lie on disk, and the truths; metrics stay empty where a scan has none."""
    truths = read_truths(plan)
    rows = []
    for (scan, method), stored in sealed.maps.items():
        # the record of a network's training may have been looked at again since the map was made
        row = cast(Row, {**stored.row, "attested": plan.attested.get(method)})
        rows.append(scored(row, sealed.store.read(scan, method), truths[scan], plan.scoring) if scan in truths else row)
    masks = {name: truth.mask_source for name, truth in truths.items()}
    record.write(STATES[2], dialect=plan.scoring.dialect, scored_in=masks, blind=[scan.name for scan in plan.scans if not scan.has_truth])
    return rows, truths
