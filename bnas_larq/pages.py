"""Pages from the Jinja templates in `templates/`: HTML reports and Markdown cards."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2


@functools.cache
def _templates() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("bnas_larq"),
        # A name or path from a user's data must not become HTML of the page.
        autoescape=jinja2.select_autoescape(["html"]),
        # A value that nobody gave is a mistake, not an empty text.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(template: str, **values: Any) -> str:
    """The text of a template, such as `report.html`, filled with values; jinja2.TemplateError if
    there is no such template, or a value that it needs is missing.
    """
    return _templates().get_template(template).render(**values)
