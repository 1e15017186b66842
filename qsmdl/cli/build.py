"""From YAML to objects."""

import dataclasses
import functools
import inspect
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf

from qsmdl.about import about_of
from qsmdl.cli.catalogue import ALL, check_method, config_folder, load_function, method_files, read_yaml, search_space
from qsmdl.data.engine import Engine
from qsmdl.data.recipe import Recipe
from qsmdl.errors import InputError
from qsmdl.methods import Method
from qsmdl.methods.weights import shipped_path
from qsmdl.poststeps import POST_STEPS, default_candidates
from qsmdl.validation import check_settings, did_you_mean

SAME_ENGINE = "same"
"""What overrides of a recipe call the engine that they leave as it is."""
_POST_STEP = re.compile(rf"method\.\w+\.({'|'.join(POST_STEPS)})=")


def plain(config: Any) -> Any:
    """A config node as dicts, lists and plain values, interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True) if OmegaConf.is_config(config) else config


def _target(config: Mapping[str, Any]) -> Callable[..., Any]:
    return get_method(str(config["_target_"]))


def call(name: str, config: DictConfig, **arguments: Any) -> Any:
    """Call a config's `_target_` with its settings, checked against the target's annotations, and with further arguments."""
    settings = {k: v for k, v in plain(config).items() if k != "_target_"}
    check_settings(name, _target(config), settings)
    return _target(config)(**settings, **arguments)


def build_method(name: str, config: DictConfig, search: Mapping[str, Any] | None = None) -> Method:
    """A method from its YAML: `_target_`, keywords, and what any method may have done around it (`poststeps`).

    search: the bounds within which `select` may choose; None takes those of `configs/search`.
    """
    partial: functools.partial[Any] = _partial(name, config)
    method = Method.from_partial(name, partial)
    if method.steps.select is None or method.steps.select_candidates is not None:
        return method
    low, high = _bounds((search_space(name) if search is None else search).get(method.about.parameter))
    # Listed among the settings, so that they are told with the map.
    return method.with_settings({"select_candidates": list(default_candidates(method.about.parameter, method.parameter_value, low, high))})


def _partial(name: str, config: DictConfig) -> Any:
    try:
        return instantiate(config, _partial_=True, _convert_="all")
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The method {name} cannot be built: {reason} Check _target_ in its YAML, and that its module can be imported.") from error


def _bounds(entry: Any) -> tuple[float, float]:
    """The ends of a search space's entry; no bounds where it has none."""
    if not isinstance(entry, Mapping):
        return 0.0, math.inf
    low, high = (entry.get(key) for key in ("low", "high"))
    return (low if isinstance(low, int | float) else 0.0), (high if isinstance(high, int | float) else math.inf)


def build_methods(config: DictConfig, search: DictConfig | None = None) -> list[Method]:
    """All methods of a config, in its order. search: the config's search spaces."""
    spaces = plain(search) or {}
    return [build_method(str(name), node, spaces.get(name)) for name, node in config.items()]


def build_recipe(
    phantom: Mapping[str, Any],
    acquisition: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    curriculum: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe of simulated volumes from the groups phantom and acquisition; each may hold a part of the engine, and an acquisition without one is
    taken as the engine's protocol. overrides: of either. Their engine may be null, the first generator with the protocol that they name; settings of
    an engine, whose protocol is that one unless they give their own; or "same", the one of both groups, whose protocol then holds. curriculum: how
    the first volumes differ, settings of `data.curriculum.Curriculum`.

    Raises InputError for an engine that is none of these, and for settings that do not fit.
    """
    overrides = {key: value for key, value in (overrides or {}).items() if key != "engine" or value != SAME_ENGINE}
    settings = {**phantom, **acquisition, **overrides}
    parts = [dict(group["engine"]) for group in (phantom, acquisition) if group.get("engine")]
    engine = {key: value for part in parts for key, value in part.items()} if "engine" not in overrides else settings["engine"]
    if engine is not None and not isinstance(engine, Mapping):
        raise InputError(f"engine is {engine!r}; it must be null (the first generator), {SAME_ENGINE} (as in training) or settings of an engine.")
    settings["engine"] = None
    check_settings("phantom and acquisition", Recipe, settings)
    if engine:
        plain_recipe = Recipe(**settings)
        settings["engine"] = Engine.from_settings({"protocol": dataclasses.asdict(plain_recipe.protocol_ranges), **engine})
    return Recipe(**settings, curriculum=curriculum)


def method_from_command_line(name: str, overrides: Sequence[str] = ()) -> Method:
    """A method by name with key=value settings, as `qsmdl reconstruct` takes them."""
    check_method(name)
    wrong = [o for o in overrides if "=" not in o]
    if wrong:
        raise InputError(f"{wrong[0]!r} is not of the form key=value, as in threshold=0.15.")
    settings = [key for key in read_yaml(method_files()[name]) if key != "_target_"]
    known = [*dict.fromkeys([*settings, *POST_STEPS])]
    words = []
    for override in overrides:
        key = override.split("=", 1)[0]
        if key not in known:
            raise InputError(f"{name} has no setting {key!r}{did_you_mean(key, known) or '.'} It has {', '.join(known)}.")
        words.append(as_override(f"method.{name}.{override}"))
    try:
        with initialize_config_dir(version_base=None, config_dir=os.fspath(config_folder())):
            config = compose("evaluate", overrides=[f"method=[{name}]", *words])
    except HydraException as error:
        raise InputError(f"The settings of {name} could not be read: {error}") from error
    return build_method(name, config.method[name])


def methods_from_command_line(names: Mapping[str, str], words: Sequence[str]) -> list[Method]:
    """Several methods with what `--set` gave them. names: what each is called -> the method it is; words: NAME.KEY=VALUE.

    Raises InputError for words of another form, of methods that are not among the names, and as `method_from_command_line`.
    """
    overrides: dict[str, list[str]] = {name: [] for name in names}
    for word in words:
        name, dot, rest = word.partition(".")
        if not dot or "=" not in rest or name not in overrides:
            raise InputError(f"--set {word} is not of the form NAME.KEY=VALUE with one of the methods {', '.join(names)}.")
        overrides[name].append(rest)
    built = {name: method_from_command_line(names[name], given) for name, given in overrides.items()}
    return [Method(name, method.function, **method.settings) for name, method in built.items()]


def as_override(word: str) -> str:
    """A word of the command line as Hydra wants it: those of `POST_STEPS` are settings of every method, listed in its YAML or not, and `method=all`
    means every method that one scan is enough for.
    """
    if word == f"method={ALL}":
        return f"method=[{','.join(runnable_methods())}]"
    return f"++{word}" if _POST_STEP.match(word) else word


def runnable_methods() -> list[str]:
    """The methods that run on a single scan as they are: all but those of several orientations, and networks whose weights do not come with qsmdl."""
    functions = {name: load_function(method_files()[name]) for name in methods_with_weights()}
    return [name for name, function in functions.items() if about_of(function).input != "several orientations"]


def methods_with_weights() -> list[str]:
    """All methods but the networks whose weights do not come with qsmdl."""
    functions = {name: load_function(path) for name, path in method_files().items()}
    return [name for name, function in functions.items() if not takes_checkpoint(function) or shipped_path(about_of(function).weights).is_file()]


def takes_checkpoint(function: Callable[..., Any]) -> bool:
    """Whether a method runs a network from a file."""
    return "checkpoint" in inspect.signature(function).parameters
