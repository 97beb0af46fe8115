"""The manual pages, from the tables that --help and the settings file are made of.

What no table has (descriptions, files, signals) is in `docs/man/`, in a markup of our own:
`# SECTION`, paragraphs, `: term` before what it means, indented examples, `bold` in back quotes,
<italic> in angle brackets, other pages as name(section), `@generated` for what is made here.
"""

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from tychoctl.grammar import Option, commands_in, options_of, words_of
from tychoctl.helptexts import grouped
from tychoctl.options import ALL, COMMON, make_parser
from tychod import load
from tychod.__main__ import build_parser
from tychod.config import Config
from tychod.config_text import applied, render_value, section_doc, section_type, takes
from tychod.schema import fields_of

FACTS: Final = Path(__file__).with_name("man")
DATE: Final = "2026-11-21"
"""Of the last look at the whole text; a page that is built later is no newer."""
WIDTH: Final = 78
SECTIONS: Final = {"1": "User commands", "5": "File formats", "8": "System administration"}
LIST_NAMES: Final = ("-n", "-A", "-l", "--sort", "-r", "--limit", "-a", "--no-headers")
"""Options that several commands share, which are described once."""
NAMES: Final = ("tychod", "tychoctl", "systemd")
# What stands for < and > in texts of tables, where they are no markup.
ANGLES: Final = {"<": "\N{LEFT ANGLE BRACKET}", ">": "\N{RIGHT ANGLE BRACKET}"}
Term = tuple[str, str]


def render_pages() -> Mapping[str, str]:
    """Return path below the checkout and text of each page."""
    made = {
        "tychoctl.1": _tychoctl(),
        "tychod.8": _options(build_parser()),
        "tychod-load.8": _load(),
        "tychod.toml.5": _settings(),
    }
    return {f"packaging/man/{name}": _page(name, lines) for name, lines in made.items()}


def _page(file: str, made: Iterable[str]) -> str:
    """Return a page: what is told of it, with what was made at the place that is kept for it."""
    name, _, section = file.rpartition(".")
    lines = [f'.TH {name.upper()} {section} "{DATE}" "tychod" "{SECTIONS[section]}"']
    told = (FACTS / f"{file}.txt").read_text(encoding="utf-8")
    for part in re.split(r"^# ", told, flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        if body.strip() == "@generated":
            lines += made
        else:
            lines += [f".SH {title}", *_body(title, body)]
    return "\n".join(lines) + "\n"


def _body(title: str, body: str) -> Iterator[str]:
    if title == "NAME":  # apropos(1) reads it, without fonts
        yield _escaped(body.strip())
        return
    for number, item in enumerate(re.split(r"\n{2,}", body.strip("\n"))):
        if item.startswith(": "):
            term, _, meaning = item[2:].partition("\n")
            yield from _term((term, meaning))
        elif item.startswith("    "):
            yield from (".PP", ".nf", ".RS 4", *map(_escaped, _dedented(item)), ".RE", ".fi")
        else:
            yield from ([".PP"] if number else [])
            yield from _text(item)


def _dedented(item: str) -> list[str]:
    return textwrap.dedent(item).strip("\n").split("\n")


def _term(item: Term) -> Iterator[str]:
    """Yield a tagged paragraph."""
    yield from (".TP", *_text(item[0], width=1000), *_text(item[1]))


def _text(text: str, width: int = WIDTH) -> list[str]:
    """Return lines of a paragraph with its fonts; none is taken for a request."""
    plain = " ".join(text.split())
    # Split before the fonts are set: what is bold goes on in the next line.
    words = textwrap.wrap(plain, width, break_long_words=False, break_on_hyphens=False)
    fonted = _fonts("\n".join(words)).split("\n")
    return [f"\\&{line}" if line.startswith((".", "'")) else line for line in fonted]


def _fonts(text: str) -> str:
    parts = re.split(r"(`[^`]+`|<[^<>]+>|\b[a-z][a-z.-]*\([1-8]\))", text)
    return "".join(_font(part) for part in parts)


def _font(part: str) -> str:
    if part.startswith("`") and len(part) > 1:
        return f"\\fB{_escaped(part[1:-1])}\\fR"
    if part.startswith("<") and part.endswith(">"):
        return f"\\fI{_escaped(part[1:-1])}\\fR"
    name, found, number = part.partition("(")
    if found and re.fullmatch(r"[a-z][a-z.-]*", name) and re.fullmatch(r"[1-8]\)", number):
        return f"\\fB{_escaped(name)}\\fR({number}"
    return _escaped(part)


def _escaped(text: str) -> str:
    """Return text that roff prints as it is; a hyphen that can be copied."""
    plain = text.translate({ord(mark): angle for angle, mark in ANGLES.items()})
    escaped = plain.replace("\\", "\\e").replace("-", "\\-").replace("±", "\\(+-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _spelled(option: Option) -> str:
    """Return an option, or a word, with its value, in our markup."""
    names = ", ".join(f"`{name}`" for name in option.names)
    if not option.takes_value:
        return names
    value = " ".join(f"<{part}>" for part in [option.metavar])
    value = f"[{value}]" if option.optional else value
    return f"{names} {value}".strip()


def _described(option: Option) -> Term:
    return _spelled(option), f"{_sentence(option.help, option.choices)}."


def _sentence(text: str, names: Iterable[str] = ()) -> str:
    """Return a text that begins as a sentence does, unless a name is its first word."""
    first = re.split(r"[\s,:']", text, maxsplit=1)[0]
    return text if first in {*NAMES, *names} else f"{text[:1].upper()}{text[1:]}"


def _options(parser: object, title: str = ".SH OPTIONS") -> Iterator[str]:
    """Yield the options of a parser."""
    yield title
    for option in options_of(parser):
        yield from _term(_described(option))


def _tychoctl() -> Iterator[str]:
    """Yield options and commands of the client."""
    parser = make_parser(ALL.values())
    own = commands_in(parser)
    yield from _options(parser)
    yield ".SS Options of lists"
    yield from _text("Of those commands whose synopsis below has them:")
    for option in options_of(own["pods"]):
        if option.names[0] in LIST_NAMES:
            yield from _term(_described(option))
    yield ".SH COMMANDS"
    for title, names in grouped().items():
        yield f".SS {_escaped(title)}"
        for name in names:
            yield from _command(name, own[name])


def _command(name: str, parser: object) -> Iterator[str]:
    """Yield one command: synopsis, what it is for, its own options, an example."""
    known = {*COMMON.values(), "-h", *LIST_NAMES}
    options, words = options_of(parser), words_of(parser)
    shown = [
        f"[{_spelled(option._replace(names=option.names[:1]))}]"
        for option in options
        if option.names[0] not in {*COMMON.values(), "-h"}
    ]
    shown = [*(f"[<{w.metavar}>]" if w.optional else f"<{w.metavar}>" for w in words), *shown]
    yield from (".TP", *_text(" ".join([f"`{name}`", *shown]), width=10_000))
    yield from _text(f"{_sentence(ALL[name].doc)}. Example: `{ALL[name].example}`")
    own = [_described(option) for option in options if option.names[0] not in known]
    own = [(f"<{w.metavar}>", _described(w)[1]) for w in words if w.help] + own
    if own:
        yield ".RS"
        for item in own:
            yield from _term(item)
        yield ".RE"


def _load() -> Iterator[str]:
    """Yield the commands of tychod-load, and the options that they have in common."""
    own = commands_in(load.build_parser())
    seen: dict[tuple[str, ...], Option] = {}
    for parser in own.values():
        seen.update({option.names: option for option in options_of(parser)})
    yield ".SH OPTIONS"
    for option in seen.values():
        only = [name for name in own if option.names in {o.names for o in options_of(own[name])}]
        of = "" if len(only) == len(own) else f" (`{'`, `'.join(only)}`)"
        spelled, text = _described(option)
        yield from _term((spelled, text.rstrip(".") + f"{of}."))


def _settings() -> Iterator[str]:
    """Yield every section and setting."""
    yield ".SH SETTINGS"
    for section in fields_of(Config):
        declared = section_type(section)
        yield f".SS [{_escaped(section.name)}]"
        yield from _paragraphs(section_doc(declared))
        for spec in fields_of(declared):
            text = f"{spec.doc} ({takes(spec)}; {applied(spec)})"
            yield from _term((f"`{spec.name} = {render_value(spec.default)}`", _unmarked(text)))


def _paragraphs(text: str) -> Iterator[str]:
    for number, part in enumerate(text.split("\n\n")):
        yield from ([".PP"] if number else [])
        yield from _text(_unmarked(part))


def _unmarked(text: str) -> str:
    """Return text of a table, in which angle brackets are no markup."""
    return text.translate({ord(angle): mark for angle, mark in ANGLES.items()})
