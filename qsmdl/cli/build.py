"""From YAML to objects."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf

from qsmdl.data.recipe import Recipe
from qsmdl.errors import InputError
from qsmdl.methods import Method
from qsmdl.validation import check_settings, did_you_mean


def config_folder() -> Path:
    """The folder of the YAML files: inside the installed package, or at the top of a clone."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def method_names() -> list[str]:
    """The methods that there is a YAML for."""
    return sorted(p.stem for p in (config_folder() / "method").glob("*.yaml"))


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


def build_method(name: str, config: DictConfig) -> Method:
    """A method from its YAML: `_target_` and keywords."""
    partial: functools.partial[Any] = instantiate(config, _partial_=True, _convert_="all")
    return Method.from_partial(name, partial)


def build_methods(config: DictConfig) -> list[Method]:
    """All methods of a config, in its order."""
    return [build_method(str(name), node) for name, node in config.items()]


def build_recipe(phantom: Mapping[str, Any], acquisition: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of simulated volumes from the groups phantom and acquisition."""
    settings = {**phantom, **acquisition, **(overrides or {})}
    check_settings("phantom and acquisition", Recipe, settings)
    return Recipe(**settings)


def method_from_command_line(name: str, overrides: Sequence[str]) -> Method:
    """A method by name with key=value settings, as `qsmdl reconstruct` takes them."""
    if name not in method_names():
        raise InputError(f"There is no method {name!r}{did_you_mean(name, method_names())} Known are {', '.join(method_names())}.")
    wrong = [o for o in overrides if "=" not in o]
    if wrong:
        raise InputError(f"{wrong[0]!r} is not of the form key=value, as in threshold=0.15.")
    known = OmegaConf.load(config_folder() / "method" / f"{name}.yaml").keys()
    for override in overrides:
        key = override.split("=", 1)[0]
        if key == "_target_" or key not in known:
            settings = [str(k) for k in known if k != "_target_"]
            raise InputError(f"{name} has no setting {key!r}{did_you_mean(key, settings)} It has {', '.join(settings)}.")
    try:
        with initialize_config_dir(version_base=None, config_dir=os.fspath(config_folder())):
            config = compose("evaluate", overrides=[f"method=[{name}]", *(f"method.{name}.{o}" for o in overrides)])
    except HydraException as error:
        raise InputError(f"The settings of {name} could not be read: {error}") from error
    return build_method(name, config.method[name])
