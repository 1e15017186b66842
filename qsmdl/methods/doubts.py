"""Warnings where a network is asked for what it was not trained on."""

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from qsmdl.data.envelope import outside_envelope
from qsmdl.scan import FieldMap, Scan

logger = logging.getLogger(__name__)


def doubts_of(card: Mapping[str, Any], field: FieldMap, scan: Scan | None, chi_ppm: Tensor) -> tuple[str, ...]:
    """In what a scan and the map [x, y, z] made of it lie outside the envelope in a network's card; each is logged as a warning, too."""
    envelope = card.get("envelope")
    doubts = outside_envelope(envelope, field, scan, chi_ppm) if isinstance(envelope, Mapping) else ()
    for doubt in doubts:
        logger.warning("%s: %s. The map may be wrong in ways that do not show.", field.name, doubt)
    return doubts
