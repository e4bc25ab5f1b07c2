"""Markup out of texts: tags, comments, scripts and character references.

Only what surely is HTML goes: a tag has the name of an element and attributes that look like such, so
"a <b and c> d" and "List<String>" stay. Every pattern is possessive or free of "<" inside, so the time
is linear in the text, whatever it holds.
"""

from __future__ import annotations

import html
import re

# Elements that end a line of text; all others leave it whole.
_BLOCKS = frozenset(
    "address article aside blockquote body br caption center dd details dialog div dl dt fieldset"
    " figcaption figure footer form frameset h1 h2 h3 h4 h5 h6 header hgroup hr html iframe legend li"
    " main menu nav noscript object ol optgroup option p pre search section select summary table tbody"
    " template textarea tfoot thead tr ul video audio".split()
)
_INLINE = frozenset(
    "a abbr acronym applet area b base basefont bdi bdo big button canvas cite code col colgroup data"
    " datalist del dfn dir embed em font frame head i img input ins kbd label link map mark meta meter"
    " nobr noframes output param picture progress q rp rt ruby s samp script slot small source span"
    " strike strong style sub sup svg td th time title track tt u var wbr".split()
)
_BOOLEAN = (
    "allowfullscreen async autofocus autoplay checked compact controls default defer disabled hidden"
    " ismap loop multiple muted nohref noresize noshade novalidate nowrap open readonly required"
    " reversed selected"
).replace(" ", "|")
_TAG = re.compile(
    r"<(?P<close>/?)(?P<name>[a-z][a-z0-9]*+)(?=[\s/>])"
    r"(?:[\s/]*+(?:[a-z_:@][-\w:.@]*+\s*+=\s*+(?:\"[^\"<]*+\"|'[^'<]*+'|[^\s<>\"'=]++)"
    rf"|(?:{_BOOLEAN})(?=[\s/>])))*+[\s/]*+>",
    re.IGNORECASE,
)
_DECLARATION = re.compile(r"<(?:!doctype|\?xml|!\[cdata\[|\]\]>)[^<>]*+>?", re.IGNORECASE)
_REFERENCE = re.compile(r"&(?:#[0-9]{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});", re.IGNORECASE)
_END = {
    name: re.compile(rf"</{name}\s*+>", re.IGNORECASE) for name in ("script", "style", "template")
}


def strip_html(text: str) -> str:
    """The text alone: "<p>fish &amp; chips</p>" becomes "fish & chips", `<br>` a new line."""
    if "<" in text:
        text = _strip_tags(text)
    if "&" in text:
        text = _REFERENCE.sub(lambda match: html.unescape(match[0]), text)
    return text


def _strip_tags(text: str) -> str:
    pieces: list[str] = []
    kept = 0  # up to here the text is in `pieces`
    at = text.find("<")
    unclosed: set[str] = (
        set()
    )  # ends that do not come any more, lest each be sought to the end again
    while at >= 0:
        found = _markup(text, at, unclosed)
        if found is None:
            at = text.find("<", at + 1)
            continue
        end, between = found
        pieces += (text[kept:at], between)
        kept = end
        at = text.find("<", end)
    pieces.append(text[kept:])
    return "".join(pieces)


def _markup(text: str, at: int, unclosed: set[str]) -> tuple[int, str] | None:
    """(where the markup that begins here ends, what takes its place); None where it is none."""
    if text.startswith("<!--", at):
        end = -1 if "-->" in unclosed else text.find("-->", at + 4)
        if end < 0:
            unclosed.add("-->")
            return None
        return end + 3, ""
    declaration = _DECLARATION.match(text, at)
    if declaration:
        return declaration.end(), ""
    tag = _TAG.match(text, at)
    if tag is None:
        return None
    name = tag["name"].lower()
    if name in _END and not tag["close"] and name not in unclosed:
        closing = _END[name].search(text, tag.end())
        if closing:
            return closing.end(), ""
        unclosed.add(name)
    if name in _BLOCKS or name == "template":
        return tag.end(), "\n"
    if name in _INLINE:
        return tag.end(), " " if name in ("td", "th") else ""
    return None
