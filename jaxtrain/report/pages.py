"""Templates to text: HTML that needs nothing else, and Markdown as GitHub shows it.

Imports nothing of jaxtrain; Jinja is imported when a page is made. The fact that surprises: whatever a template shows
is escaped, in Markdown too, unless a filter has made it `Markup`; a class may be called <script> or a|b.
"""

import base64
import functools
import html
import re
import urllib.parse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

SPECIAL = re.compile(r"([\\`*_\[|~$])")
"""What Markdown may take for more than a letter; $ begins a formula on GitHub."""


def render(template: str, **values: Any) -> str:
    """The text of a page.

    Args:
      template: "report.html.j2", "report.md.j2", "compare.html.j2" or "compare.md.j2".
      values: what it shows.
    """
    return _environment(escaped=template.endswith(".html.j2")).get_template(template).render(values)


def data_uri(png: bytes) -> str:
    """A PNG as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def escape_markdown(value: Any) -> str:
    """Text that reads the same in Markdown, in a table too: on one line, with neither markup nor HTML."""
    from markupsafe import Markup

    if isinstance(value, Markup):
        return value
    return Markup(SPECIAL.sub(r"\\\1", html.escape(" ".join(str(value).split()), quote=False)))


def code(value: Any) -> str:
    """Text in a code span of Markdown, which no text can leave: a longer fence than any in it."""
    from markupsafe import Markup

    text = " ".join(str(value).split()).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    room = " " if text.startswith("`") or text.endswith("`") else ""
    return Markup(f"{fence}{room}{text}{room}{fence}") if text else Markup("")


def address(file: str) -> str:
    """A file's name as Markdown links to it."""
    from markupsafe import Markup

    return Markup(urllib.parse.quote(file))


@functools.cache
def _environment(*, escaped: bool) -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("jaxtrain.report", "."),
        autoescape=escaped,
        finalize=None if escaped else escape_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"data_uri": data_uri, "code": code, "address": address}
    return environment
