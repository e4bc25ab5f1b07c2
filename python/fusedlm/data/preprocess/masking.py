"""Personal data out of texts: what looks like it and passes its check digits becomes "[EMAIL]" or so.

Cards must pass the Luhn check and begin as cards do, IBANs mod 97 and the length of their country, IP
addresses must be addresses. Phone numbers have no check: only forms that hardly mean anything else are
taken, an international prefix above all. Names and street addresses are not found.
"""

from __future__ import annotations

import ipaddress
import re
import string
from collections.abc import Callable, Iterator

Spans = Iterator[tuple[int, int]]

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # scripts that write no blanks around an address
_EMAIL = re.compile(
    rf"(?:(?<![\w.%+-])|(?<=[{_CJK}]))(?:(?:(?![{_CJK}])[\w.%+-]){{1,64}}+|[{_CJK}]{{1,64}}+)"
    r"@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}"
    r"(?:[A-Za-z]{2,24}(?![A-Za-z0-9_-])|[^\W\d_A-Za-z]{2,24}(?![\w-]))"
)
_IBAN = re.compile(r"(?<![0-9A-Za-z])[A-Z]{2}[0-9]{2}(?=[ ]?[0-9A-Z])")
# Groups of digits, none of them the end of "3.14" or the start of "2nd".
_CARD_RUN = re.compile(
    r"(?<![0-9A-Za-z])(?<![0-9][.,-])[0-9]++(?![A-Za-z])(?:[ -][0-9]++(?![A-Za-z]))*+"
)
_CARD = re.compile(r"4|5[1-5]|2[2-7]|3[0-9]|6[0-9]")  # how numbers of the known networks begin
_IPV4 = re.compile(r"(?<![0-9A-Za-z.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9A-Za-z]|\.[0-9])")
_IPV6 = re.compile(
    r"(?<![0-9A-Za-z:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}+"
    r"(?:[0-9]{0,2}(?:\.[0-9]{1,3}){3})?(?![0-9A-Za-z:])"
)
_PHONE = re.compile(
    r"(?<![0-9A-Za-z_+])(?<![0-9][.,/-])(?:"
    r"(?:\+|00)[ ]?[1-9](?:[ ./()-]{0,3}[0-9]){7,14}"  # international
    r"|(?:1[ .-])?(?:\([2-9][0-9]{2}\)[ ]?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}"  # America
    r"|1[3-9][0-9](?:[0-9]{8}|[ -][0-9]{4}[ -][0-9]{4})"  # mobile phones of China
    # the code of an area first
    r"|\(?0[1-9][0-9]{1,4}(?:\)[ ]?|[ /-])[0-9]{3,4}[ -]?[0-9]{2,4}(?:-[0-9]{1,4})?"
    r"|\(?0[1-9][0-9]{0,4}(?:\)[ ]?|[ /-])[0-9]{2,3}(?:[ -][0-9]{2}){3}"
    r")(?![0-9A-Za-z]|[./-][0-9])"
)

# Characters of an IBAN by country (the SWIFT registry).
_IBAN_LENGTHS = {
    "NO": 15, "BE": 16, "BI": 27, "DK": 18, "FI": 18, "FO": 18, "GL": 18, "NL": 18, "SD": 18, "FK": 18,
    "MK": 19, "SI": 19, "AT": 20, "BA": 20, "EE": 20, "KZ": 20, "LT": 20, "LU": 20, "XK": 20, "MN": 20,
    "CH": 21, "HR": 21, "LI": 21, "LV": 21, "BG": 22, "BH": 22, "CR": 22, "DE": 22, "GB": 22, "GE": 22,
    "IE": 22, "ME": 22, "RS": 22, "VA": 22, "AE": 23, "GI": 23, "IL": 23, "IQ": 23, "OM": 23, "TL": 23,
    "SO": 23, "AD": 24, "CZ": 24, "ES": 24, "MD": 24, "PK": 24, "RO": 24, "SA": 24, "SE": 24, "SK": 24,
    "TN": 24, "VG": 24, "LY": 25, "PT": 25, "ST": 25, "IS": 26, "TR": 26, "FR": 27, "GR": 27, "IT": 27,
    "MC": 27, "MR": 27, "SM": 27, "DJ": 27, "AL": 28, "AZ": 28, "BY": 28, "CY": 28, "DO": 28, "GT": 28,
    "HU": 28, "LB": 28, "NI": 28, "PL": 28, "SV": 28, "BR": 29, "EG": 29, "PS": 29, "QA": 29, "UA": 29,
    "JO": 30, "KW": 30, "MU": 30, "YE": 30, "MT": 31, "SC": 31, "LC": 32, "RU": 33,
}  # fmt: skip


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1)."""
    total = sum(map(int, digits[-1::-2]))
    return (total + sum(sum(divmod(2 * int(d), 10)) for d in digits[-2::-2])) % 10 == 0


def iban(text: str) -> bool:
    """Whether an IBAN without blanks has the length of its country and its check digits (ISO 13616)."""
    if len(text) != _IBAN_LENGTHS.get(text[:2]):
        return False
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


def _emails(text: str) -> Spans:
    if "@" in text:
        yield from (match.span() for match in _EMAIL.finditer(text))


def _ibans(text: str) -> Spans:
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2], 0)
        end, seen = match.start(), 0
        while seen < length and end < len(text) and (text[end] == " " or text[end].isalnum()):
            seen += text[end] != " "
            end += 1
        number = text[match.start() : end].replace(" ", "")
        following = text[end : end + 1]
        if seen == length and number.isascii() and not following.isalnum() and iban(number):
            yield match.start(), end


def _cards(text: str) -> Spans:
    """Whole groups of a run of digits that make up a card's number, the longest from the left."""
    for run in _CARD_RUN.finditer(text):
        groups = list(re.finditer("[0-9]+", run[0]))
        first = 0
        while first < len(groups):
            for last in range(min(len(groups), first + 8) - 1, first - 1, -1):
                digits = "".join(group[0] for group in groups[first : last + 1])
                if 13 <= len(digits) <= 19 and _CARD.match(digits) and luhn(digits):
                    yield run.start() + groups[first].start(), run.start() + groups[last].end()
                    first = last
                    break
            first += 1


def _ips(text: str) -> Spans:
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            if not any(map(str.isdigit, match[0])):  # "a::b" of some program
                continue
            try:
                ipaddress.ip_address(match[0])
            except ValueError:
                continue
            yield match.span()


def _phones(text: str) -> Spans:
    yield from (match.span() for match in _PHONE.finditer(text))


# In this order: what has a check goes before what only looks like something.
KINDS: dict[str, Callable[[str], Spans]] = {
    "email": _emails, "iban": _ibans, "card": _cards, "ip": _ips, "phone": _phones,
}  # fmt: skip
_DIGIT = re.compile("[0-9０-９]")
# Full-width digits, letters and "@"; not the signs between Chinese sentences.
_NARROW = {0xFEE0 + ord(c): c for c in string.digits + string.ascii_letters + "@"}


def mask(text: str, kinds: tuple[str, ...]) -> tuple[str, dict[str, int]]:
    """(the text with "[CARD]" and so on in place of what was found, how many of each kind).

    Raises ValueError for a kind that is none of KINDS.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"mask: kinds holds {kind!r}, expected some of {', '.join(KINDS)}")
    counts: dict[str, int] = {}
    digits = _DIGIT.search(text) is not None
    for kind, find in KINDS.items():
        if kind not in kinds or not (digits or kind == "email"):
            continue
        # One character for one, so that places in it are places in the text.
        plain = text if text.isascii() else text.translate(_NARROW)
        pieces: list[str] = []
        kept = 0
        for start, end in sorted(find(plain)):
            if start >= kept:  # not inside the one before, as 10.0.0.1 is in ::ffff:10.0.0.1
                pieces += (text[kept:start], f"[{kind.upper()}]")
                kept = end
                counts[kind] = counts.get(kind, 0) + 1
        text = "".join((*pieces, text[kept:]))
    return text, counts
