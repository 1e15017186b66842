"""One face for everything that is compared.

A method is a function of a `FieldMap` (first argument) and keywords, returning a `ChiMap`. Four keywords are not settings but are handed over where
a method asks for them: `scan` (all echoes), `orientations` (field maps of the same head at other orientations to B0, on the same grid), `on_step`
(called with step and value, for progress) and `state_path` (where an interrupted method saves what it needs to go on). Eight settings are not the
function's but every method's: `crop_phase`, `unring`, `strong_sources`, `large_scales`, `fine_scales`, `structures`, `select` and `select_candidates`
(`poststeps`).
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qsmdl.about import About, MethodKind, about_of
from qsmdl.errors import InputError
from qsmdl.methods.weights import load_prior, shipped_weights
from qsmdl.plausible import check_local_field
from qsmdl.poststeps import POST_STEPS, PostSteps, run_with_steps
from qsmdl.scan import ChiMap, FieldMap, Scan
from qsmdl.solvers.crop_phase import without_crop_phase
from qsmdl.validation import check_settings

OnStep = Callable[[int, float], None]
CONTEXT = ("scan", "orientations", "on_step", "state_path")


class Method:
    """A method with its settings filled in; call it with a field map and, if there is one, the scan it came from."""

    def __init__(self, name: str, function: Callable[..., ChiMap], **settings: Any) -> None:
        self.name, self.function, self.settings = name, function, settings
        self.accepts = frozenset(inspect.signature(function).parameters)
        taken = sorted(self.accepts & set(POST_STEPS))
        if taken:
            raise InputError(f"The function of {name} has a keyword {taken[0]!r}, which is a setting of every method. Call the keyword otherwise.")
        if self.about.parameter and self.about.parameter not in self.accepts:
            raise InputError(f"{name} is said to have the parameter {self.about.parameter!r}, but its function has no such keyword. Correct @about.")
        self._own = {key: value for key, value in settings.items() if key not in POST_STEPS}
        check_settings(name, function, self._own)
        self.steps = PostSteps.of(name, settings, self.about)
        for candidate in self.steps.select_candidates or ():
            check_settings(f"{name}.select_candidates", function, {self.about.parameter: candidate})

    @classmethod
    def from_partial(cls, name: str, built: "functools.partial[ChiMap]") -> "Method":
        """From what a method's YAML builds."""
        return cls(name, built.func, **built.keywords)

    def with_settings(self, settings: Mapping[str, Any]) -> "Method":
        """The same method with some of its settings replaced."""
        return Method(self.name, self.function, **{**self.settings, **settings})

    @property
    def about(self) -> About:
        """What the function says of itself (`about.about`)."""
        return about_of(self.function)

    @property
    def kind(self) -> MethodKind:
        """The challenge's type of algorithm."""
        return self.about.kind

    @property
    def parameter_value(self) -> Any:
        """The setting that `select` varies, as configured; None for a method without one."""
        name = self.about.parameter
        if not name:
            return None
        return self.settings[name] if name in self.settings else inspect.signature(self.function).parameters[name].default

    @property
    def weights_path(self) -> Path | None:
        """The file of the network's weights; None for a method without network. Raises InputError where the weights do not come with qsmdl."""
        if "checkpoint" not in self.accepts:
            return None
        checkpoint = self.settings.get("checkpoint")
        return shipped_weights(self.about.weights) if checkpoint is None else Path(checkpoint)

    @property
    def solve_key(self) -> str | None:
        """What its map is before the steps around it: equal for two methods that differ in these alone. None where `select` chooses, or
        the scan is another (`crop_phase`).
        """
        if self.steps.select is not None or self.steps.crop_phase:
            return None
        return f"{self.function.__module__}.{self.function.__qualname__} {sorted((key, repr(value)) for key, value in self._own.items())}"

    @property
    def _corrects_itself(self) -> bool:
        """Whether it is a network's method that corrects the phase of the crop, since the network was trained so."""
        path = self.weights_path
        return path is not None and load_prior(path).crop_phase

    @property
    def reports_steps(self) -> bool:
        """Whether progress can be shown."""
        return "on_step" in self.accepts

    def __call__(
        self,
        field: FieldMap,
        scan: Scan | None = None,
        *,
        orientations: Sequence[FieldMap] = (),
        on_step: OnStep | None = None,
        state_path: Path | None = None,
        solved: ChiMap | None = None,
    ) -> ChiMap:
        """The susceptibility map of a field, with those of `POST_STEPS` that are switched on.

        solved: the map of a method of the same `solve_key` without these; it is not solved for again. Raises InputError for a
        field that cannot be local, unless the method works from wrapped phase.
        """
        if field.kind == "local" and self.about.input != "wrapped phase":
            check_local_field(field.field_ppm[field.mask], f"The field map of {field.name!r}")
        doubts: tuple[str, ...] = ()
        if self.steps.crop_phase and not self._corrects_itself:
            field, scan, doubts = without_crop_phase(field, scan)
        context = {"scan": scan, "orientations": orientations, "on_step": on_step, "state_path": state_path}
        handed = {k: v for k, v in context.items() if k in self.accepts}

        def run(**changed: Any) -> ChiMap:
            return solved if solved is not None and not changed else self.function(field, **{**self._own, **changed}, **handed)

        explained = field
        if self.steps.large_scales and self._corrects_itself:  # by the field that the network explains, which is found already
            explained = without_crop_phase(field, scan).field
        chi = run_with_steps(run, explained, self.steps, self.about.parameter, self.parameter_value)
        return dataclasses.replace(chi, outcome=dataclasses.replace(chi.outcome, doubts=(*doubts, *chi.outcome.doubts))) if doubts else chi
