"""HTML pages from ``templates/``: one file each that needs no network, by day, night and on paper.

Jinja2 escapes every value; only what is ``Markup`` already (charts, ``code``) is HTML.
"""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from xmdpt_cli.utils.counts import counted


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("xmdpt_cli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["counted"] = counted
    return environment


def render(name: str, **values: Any) -> str:
    """The page of ``templates/<name>.html.j2``; the same values give the same text."""
    return _environment().get_template(f"{name}.html.j2").render(values)


def code(value: Any) -> Markup:
    """A text to copy: a hash, a file's name."""
    return Markup("<code>{}</code>").format(value)


def data_uri(kind: str, data: bytes) -> str:
    """An image file inside the page; ``kind``: ``png``, ``jpeg``."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
