"""The declarations of `config.py` as text: the commented default file and the manual's table."""

import inspect
import textwrap
from collections.abc import Iterator
from typing import Final

from tychod.config import Config
from tychod.schema import Dataclass, FieldSpec, describe, fields_of, to_plain
from tychod.settings import DEFAULT_DIR, FILE_NAME, variable_name

WIDTH: Final = 100
HEAD: Final = f"""\
Settings of tychod: {DEFAULT_DIR}/{FILE_NAME}

Every setting is here, commented out, with its default. Files in {DEFAULT_DIR}/conf.d/ ending in
.toml are read after this one in name order and win key by key; environment variables such as
TYCHOD_RAPL_INTERVAL win over files. `tychod --check-config` checks, `tychoctl config show` tells
what is in force and where each value comes from, `systemctl reload tychod` applies changes to the
settings marked "live"; the others take effect after `systemctl restart tychod`.
"""


def render_default() -> str:
    """Return the default file: every section and setting explained, every value commented out."""
    blocks = [comment(HEAD)]
    for section in fields_of(Config):
        declared = section_type(section)
        blocks.append(f"{comment(section_doc(declared))}[{section.name}]\n")
        blocks += [render_setting(spec) for spec in fields_of(declared)]
    return "\n".join(blocks)


def render_setting(spec: FieldSpec) -> str:
    """Return one setting: what it means, what it takes, and its default commented out."""
    text = f"{spec.doc} ({takes(spec)}; {applied(spec)})"
    return comment(text) + f"# {spec.name} = {render_value(spec.default)}\n"


def render_table() -> str:
    """Return the manual's tables in Markdown, one for each section."""
    return "\n".join("\n".join(render_section(section)) for section in fields_of(Config))


def render_section(section: FieldSpec) -> Iterator[str]:
    """Yield the lines of one section of the manual's table."""
    declared = section_type(section)
    yield from (f"### `[{section.name}]`", "", section_doc(declared).replace("\n", " "), "")
    yield "| setting | default | takes | applied | meaning |"
    yield "|---|---|---|---|---|"
    for spec in fields_of(declared):
        cells = (
            f"`{spec.name}`",
            f"`{render_value(spec.default)}`",
            takes(spec),
            applied(spec),
            spec.doc,
        )
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield from ("", f"Environment: `{variable_name(section.name)}_<SETTING>`.", "")


def takes(spec: FieldSpec) -> str:
    """Return which values a setting takes, in words."""
    words = describe(spec.type)
    if spec.limits is None:
        return words
    return f"{words} from {spec.limits.low:.10g} to {spec.limits.high:.10g}"


def applied(spec: FieldSpec) -> str:
    """Return when a change takes effect."""
    return "restart" if spec.restart else "live"


def render_value(value: object) -> str:
    """Return a value as TOML writes it."""
    import tomli_w  # no one-shot client command needs it

    plain = to_plain(value)
    if isinstance(plain, list):  # on one line: each line of a default file's comment is a setting
        return f"[{', '.join(map(render_value, plain))}]"
    return tomli_w.dumps({"value": plain}).removeprefix("value = ").rstrip("\n")


def section_type(section: FieldSpec) -> type[Dataclass]:
    """Return the dataclass that declares a section."""
    if not isinstance(section.type, type):
        raise TypeError(f"section {section.name} is not a dataclass")
    return section.type


def section_doc(declared: type[Dataclass]) -> str:
    """Return what a section is for: its docstring, paragraphs kept."""
    return inspect.cleandoc(declared.__doc__ or "")


def comment(text: str) -> str:
    """Return text as TOML comments, wrapped; a blank line stays one."""
    paragraphs = text.strip().split("\n\n")
    wrapped = ["\n".join(textwrap.wrap(p, WIDTH - 2, break_long_words=False)) for p in paragraphs]
    lines = "\n\n".join(wrapped).split("\n")
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)
