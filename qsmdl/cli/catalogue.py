"""Which methods there are: those that come with the package, and those of the folders that the environment variable QSMDL_METHODS names.

A folder of one's own holds `method/NAME.yaml`, the Python module that its `_target_` names, and optionally `search/NAME.yaml`. Several folders are
separated as in PATH.
"""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from qsmdl.errors import InputError
from qsmdl.validation import did_you_mean

OWN = "QSMDL_METHODS"
ALL = "all"


def config_folder() -> Path:
    """The folder of the YAML files: inside the installed package, or at the top of a clone."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def own_folders() -> list[Path]:
    """The folders that QSMDL_METHODS names, whose modules can then be imported. Raises InputError for one without a folder `method`."""
    folders = [Path(word).expanduser().resolve() for word in os.environ.get(OWN, "").split(os.pathsep) if word]
    for folder in folders:
        if not (folder / "method").is_dir():
            raise InputError(f"{OWN} names {folder}, which holds no folder 'method' with YAML files. See docs/own-method.md.")
        if os.fspath(folder) not in sys.path:
            sys.path.append(os.fspath(folder))
    return folders


class OwnMethods(SearchPathPlugin):
    """Lets Hydra find the YAML files of one's own folders."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra whenever it composes."""
        for folder in own_folders():
            search_path.append("qsmdl-own", f"file://{folder}")


Plugins.instance().register(OwnMethods)


def _check_package(path: Path) -> None:
    """Without its package line, Hydra would take the file's entries for methods."""
    wanted = f"# @package method.{path.stem}"
    text = path.read_text(encoding="utf-8")
    if wanted not in text.splitlines():
        raise InputError(f"{path} has no line '{wanted}', by which it becomes a method of that name. Make it the first line.")


def method_files() -> dict[str, Path]:
    """The YAML file of every method, by name. Raises InputError for a file of one's own that Hydra would misread, or whose name is taken."""
    found = {path.stem: path for path in sorted((config_folder() / "method").glob("*.yaml"))}
    for folder in own_folders():
        for path in sorted((folder / "method").glob("*.yaml")):
            if path.stem in found:
                raise InputError(f"{path} has the name of {found[path.stem]}. Give it another one.")
            if not path.stem.isidentifier() or path.stem == ALL:
                raise InputError(f"{path.name} names no method: letters, digits and underscores, and not {ALL!r}. Rename {path}.")
            _check_package(path)
            found[path.stem] = path
    return dict(sorted(found.items()))


def method_names() -> list[str]:
    """The methods that there is a YAML for."""
    return list(method_files())


def check_method(name: str) -> None:
    """Raises InputError for a method that there is no YAML for."""
    names = method_names()
    if name not in names:
        raise InputError(f"There is no method {name!r}{did_you_mean(name, names) or '.'} Known are {', '.join(names)}.")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as it stands. Raises InputError where it is none, or holds no entries."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"{path} could not be read: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no entries. A method's YAML has _target_ and its settings.")
    return {str(key): value for key, value in content.items()}


def load_function(path: Path) -> Callable[..., Any]:
    """The function that a method's YAML names. Raises InputError where it cannot be imported."""
    target = str(read_yaml(path).get("_target_"))
    module, _, name = target.rpartition(".")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever is wrong with a module of one's own
        raise InputError(
            f"{path}: _target_ is {target!r}, which cannot be imported ({type(error).__name__}: {error}). Its module must lie in PYTHONPATH or "
            f"in {OWN}."
        ) from error
    return function


def search_space(name: str) -> Mapping[str, Any]:
    """What `configs/search` says of a method; nothing where it says nothing."""
    for folder in (config_folder(), *own_folders()):
        path = folder / "search" / f"{name}.yaml"
        if path.is_file():
            return read_yaml(path)
    return {}
