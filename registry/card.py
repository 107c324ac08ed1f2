"""Model cards: a stranger's Markdown, made into HTML that is safe to show."""

from __future__ import annotations

from functools import lru_cache

import nh3
from markdown_it import MarkdownIt

MAX_CARD_BYTES = 1 << 16
_TAGS = {"a", "blockquote", "br", "code", "del", "em", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre"}
_TABLE = {"strong", "table", "tbody", "td", "th", "thead", "tr", "ul"}
_MARKDOWN = MarkdownIt("commonmark", {"html": False, "maxNesting": 20}).enable(["table", "strikethrough"])
_MARKDOWN.disable("image")  # what remains is a link, so that no page fetches anything from elsewhere


@lru_cache(maxsize=64)
def render_card(data: bytes) -> str:
    """Safe HTML of a card. Front matter is left out, headings start at level 3, images become links."""
    tokens = _MARKDOWN.parse(_body(data.decode("utf-8", "replace")))
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1:]) + 2)}"
    html = _MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {})
    return nh3.clean(
        html,
        tags=_TAGS | _TABLE,
        attributes={"a": {"href"}, "ol": {"start"}},
        url_schemes={"http", "https", "mailto"},
        set_tag_attribute_values={"pre": {"tabindex": "0"}},  # long lines scroll, by keyboard too
        link_rel="nofollow noopener noreferrer",
    )


def _body(text: str) -> str:
    lines = text.removeprefix("\ufeff").replace("\x00", "\ufffd").splitlines()
    if lines and lines[0].strip() == "---" and "---" in (line.rstrip() for line in lines[1:]):
        end = next(number for number, line in enumerate(lines[1:], 1) if line.rstrip() == "---")
        lines = lines[end + 1 :]
    return "\n".join(lines)
