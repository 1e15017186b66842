"""Pages that are one file: scripts, styles and data inside, nothing loaded, nothing executed that this package did not write.

Text goes through Jinja's escaping, data through `as_json`, and a content security policy lets the browser run the page's own scripts alone, by hash.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from qsmdl.errors import InputError

_HERE = Path(__file__).parent
TEMPLATES, VENDOR = _HERE / "templates", _HERE / "vendor"
NIIVUE_VERSION = "0.69.0"
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def check_target(path: Path, overwrite: bool) -> None:
    """Raises InputError where a page cannot be written to a path: before the work, not after it."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path} does not end in .html. Reports are HTML pages: change the name.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already and is not replaced. Choose another name, or pass --overwrite.")


def as_json(content: Any) -> Markup:
    """JSON that no HTML parser mistakes for markup, for a data block <script type="application/json">."""
    text = json.dumps(content, allow_nan=False, ensure_ascii=False)
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return Markup(text)  # noqa: S704 - escaped above


def _script(path: Path) -> Markup:
    """A script of this package; its text is part of the page, and its hash of the policy."""
    text = path.read_text(encoding="utf-8")
    if "</script" in text.lower() or "<!--" in text or "\r" in text:
        raise ValueError(f"{path} cannot stand inside an HTML page as it is.")
    return Markup(text)  # noqa: S704 - a file of the package, checked above


def _policy(scripts: Sequence[str]) -> str:
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; connect-src data: blob:"


def render_page(template: str, context: Mapping[str, Any], *, scripts: Sequence[str], with_niivue: bool = False) -> str:
    """A page from a template of this package. scripts: names of files in templates/; with_niivue: the vendored viewer goes before them."""
    paths = ([VENDOR / "niivue.umd.js"] if with_niivue else []) + [TEMPLATES / name for name in scripts]
    texts = [_script(path) for path in paths]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["json"] = as_json
    style = Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))  # noqa: S704 - a file of the package
    return environment.get_template(template).render(**context, scripts=texts, style=style, policy=_policy(texts))
