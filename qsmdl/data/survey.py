"""What an engine drew, beside what it was to draw: values with their ranges, and how often each switch was on."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from qsmdl.data.engine import KINDS, Engine, Sample
from qsmdl.phantom.abstract.geometric import ShapeParams
from qsmdl.phantom.anatomy.params import HeadParams
from qsmdl.phantom.drawing.ranges import Range
from qsmdl.phantom.scanning.protocol import ProtocolParams, ProtocolRanges

Survey = dict[str, tuple[list[float], Range]]


def survey(engine: Engine, samples: Sequence[Sample]) -> Survey:
    """Drawn numbers by name, each with the range it comes from; quantities that no sample has are missing."""
    found: Survey = {}
    for sample in samples:
        for name, value, ends in _numbers(engine, sample):
            found.setdefault(name, ([], ends))[0].append(value)
    return found


def shares(engine: Engine, samples: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    """Share of the samples that have each effect, and the share intended, among the samples that can have it."""
    total = sum(engine.kinds.values())
    rows = {f"kind {kind}": (_mean([s.kind == kind for s in samples]), engine.kinds.get(kind, 0.0) / total) for kind in KINDS}
    heads, others = ([s for s in samples if (s.kind == "head") is wanted] for wanted in (True, False))
    rows["veins (heads)"] = (_mean([s.veins is not None for s in heads]), engine.veins.probability)
    rows["vessels (shapes, label maps)"] = (_mean([s.vessels is not None for s in others if s.kind != "texture"]), engine.vessels.probability)
    rows["added texture"] = (_mean([s.added_texture is not None for s in samples if s.kind != "texture"]), engine.added_texture.probability)
    for kind in ("calcification", "haemorrhage", "microbleed"):
        has = [s.lesions is not None and any(blob.kind == kind for blob in s.lesions.blobs) for s in samples]
        rows[kind] = (_mean(has), getattr(engine.lesions, kind).probability)
    for name in (f.name for f in dataclasses.fields(engine.effects)):
        rows[name] = (_mean([getattr(s.effects, name) is not None for s in samples]), getattr(engine.effects, name).probability)
    return rows


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else math.nan


def _numbers(engine: Engine, sample: Sample) -> Iterator[tuple[str, float, Range]]:
    yield from _protocol(engine.protocol, sample.protocol)
    if isinstance(sample.anatomy, HeadParams):
        for axis, value in zip("xyz", sample.anatomy.scale, strict=True):
            yield f"head scale {axis}", value, getattr(engine.anatomy, f"scale_{axis}")
        yield from _alike("head", engine.anatomy, sample.anatomy)
    if isinstance(sample.anatomy, ShapeParams):
        yield from _alike("shapes", engine.shapes, sample.anatomy)
    for name in ("veins", "vessels"):
        yield from _alike(name, getattr(engine, name), getattr(sample, name))
    yield from _lesions(engine, sample)
    for field in dataclasses.fields(engine.effects):
        yield from _alike(field.name, getattr(engine.effects, field.name), getattr(sample.effects, field.name))


def _alike(name: str, ranges: Any, drawn: Any) -> Iterator[tuple[str, float, Range]]:
    """Numbers of a draw that have a range of the same name."""
    if drawn is None:
        return
    for field in dataclasses.fields(ranges):
        ends, value = getattr(ranges, field.name), getattr(drawn, field.name, None)
        if not (isinstance(ends, tuple) and len(ends) == 2 and all(isinstance(v, float | int) for v in ends)):
            continue
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, float | int) and not isinstance(one, bool):
                yield f"{name} {field.name}", float(one), (float(ends[0]), float(ends[1]))


def _protocol(ranges: ProtocolRanges, drawn: ProtocolParams) -> Iterator[tuple[str, float, Range]]:
    choices = ranges.b0_choices_tesla
    yield "b0_tesla", drawn.b0_tesla, (min(choices), max(choices)) if choices else ranges.b0_tesla
    yield "n_echoes", float(len(drawn.echo_times_s)), ranges.n_echoes
    if len(drawn.echo_times_s) > 1:
        yield "first_echo_s", drawn.echo_times_s[0], ranges.first_echo_s
    yield "last_echo_s", drawn.echo_times_s[-1], ranges.last_echo_s
    for name in ("repetition_time_s", "flip_angle_deg", "peak_snr"):
        yield name, getattr(drawn, name), getattr(ranges, name)
    shortest, longest = min(drawn.voxel_size_mm), max(drawn.voxel_size_mm)
    yield "voxel_size_mm", shortest, ranges.voxel_size_mm
    if longest > shortest:
        yield "anisotropy", longest / shortest, ranges.anisotropy
    if drawn.b0_direction != (0.0, 0.0, 1.0):
        yield "tilt_deg", math.degrees(math.acos(max(-1.0, min(1.0, drawn.b0_direction[2])))), (0.0, ranges.max_tilt_deg)


def _lesions(engine: Engine, sample: Sample) -> Iterator[tuple[str, float, Range]]:
    if sample.lesions is None:
        return
    for blob in sample.lesions.blobs:
        ranges = getattr(engine.lesions, blob.kind)
        # Mild and ordinary susceptibilities have ranges of their own: shown over both.
        mild = ranges.mild_chi_ppm if ranges.mild_share > 0 else ranges.chi_ppm
        yield f"{blob.kind} chi_ppm", blob.chi_ppm, (min(ranges.chi_ppm[0], mild[0]), max(ranges.chi_ppm[1], mild[1]))
        yield f"{blob.kind} radius_mm", blob.lobes[0][3], ranges.radius_mm
    for factor in sample.lesions.iron_factor:
        yield "iron factor", factor, engine.lesions.iron.factor
