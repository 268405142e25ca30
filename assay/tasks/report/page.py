"""The shell of every page: its head, style, script and header, where it comes from, its footer. A page of its own
extends `page.html` and fills its blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

HERE = Path(__file__).parent


def soft(name: str) -> Markup:
    """A number's name that may break into lines after its signs."""
    return Markup("<wbr>").join(re.split(r"(?<=[:./_])", name))


def render(kind: str, shown: Mapping[str, Any]) -> str:
    """A page as text, with its styles, script, plots and images inside, by the template of its kind (`report`,
    `sweep`, `study`).

    All templates are shown `title`, `status` (a colour), `name` (what ran), `lead` and `note` (sentences), `findings`
    (a list of such), `facts` (`command`, `created`, `versions`, `git`, perhaps `data`) and `beside` (the files beside
    the page).
    """
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["soft"] = soft
    style, script = (Markup((HERE / name).read_text(encoding="utf-8")) for name in ("report.css", "report.js"))
    return environment.get_template(f"{kind}.html").render({"kind": kind, **shown, "style": style, "script": script})
