"""The screen of `tychoctl top` as lines of styled text, for any size; pure."""

from collections.abc import Mapping, Sequence
from math import isnan, nan
from typing import Final, NamedTuple

from tychoctl import render
from tychoctl.columns import NORMAL_95
from tychoctl.render import display_width
from tychoctl.top_columns import Frame, energy, head_line, row_line, spark
from tychoctl.top_model import Bar, History, Known, Leaf
from tychoctl.top_rows import Row
from tychoctl.top_state import HELP, State

Span = tuple[str, str]
"""Text, which is safe to print, and the name of its style."""
Line = list[Span]
LEAST_HEIGHT_FOR_FILTERS: Final = 8
LEAST_HEIGHT_FOR_DETAIL: Final = 14
LEAST_HEIGHT_FOR_TREND: Final = 12
LEAST_WIDTH_FOR_MEANINGS: Final = 150
BAR_NAME: Final = 9  # cells of a domain's name, and of its power
MOST_BAR: Final = 60
HINTS: Final = "q quit  ? help  / text  s order  t tree  u unit  p pause  f kind  n namespace"


class Scene(NamedTuple):
    """All that a screen shows; ``told``: what the user must know now, e.g. that tychod is away."""

    known: Known
    state: State
    rows: Sequence[Row]
    history: History
    width: int
    height: int
    until: int | None = None  # windows of history that a paused view knows
    told: str = ""
    ascii: bool = False

    @property
    def frame(self) -> Frame:
        """What a row needs to know of the screen."""
        return Frame(self.known, self.state, self.width, self.ascii)


def page_of(known: Known, height: int) -> int:
    """Return how many rows a screen of this height shows."""
    above = len(_shown_bars(known, height)) + _extra_lines(height) + 3
    return max(height - above, 1)


def _extra_lines(height: int) -> int:
    """Return how many of the lines are there that a low screen does without."""
    limits = (LEAST_HEIGHT_FOR_FILTERS, LEAST_HEIGHT_FOR_DETAIL, LEAST_HEIGHT_FOR_TREND)
    return sum(height >= limit for limit in limits)


def draw(scene: Scene) -> list[Line]:
    """Return the lines of a screen, as many as it is high, none wider than it is."""
    state, height = scene.state, scene.height
    if state.mode == "help":
        return _cut_all(_help(scene), scene)
    if not scene.known.end:
        waiting = scene.told or "waiting for tychod's first window"
        lines: list[Line] = [[("tychod top", "title")], [(waiting, "bad")]]
        bottom = _bottom(scene._replace(told=""))
        return _cut_all([*lines[:height], *_blank(height - 3), bottom], scene)
    lines = [_title(scene)]
    if height >= LEAST_HEIGHT_FOR_TREND:
        lines.append(_trend(scene))
    lines += [_bar_line(bar, scene) for bar in _shown_bars(scene.known, height)]
    if height >= LEAST_HEIGHT_FOR_FILTERS:
        lines.append([(_filters(scene), "dim")])
    lines.append(head_line(scene.frame))
    page = page_of(scene.known, height)
    body = _body(scene, page)
    lines += [*body, *_blank(page - len(body))]
    if height >= LEAST_HEIGHT_FOR_DETAIL:
        lines.append(_detail(scene))
    lines.append(_bottom(scene))
    return _cut_all(lines, scene)


def _blank(count: int) -> list[Line]:
    return [[] for _ in range(max(count, 0))]


def _cut_all(lines: list[Line], scene: Scene) -> list[Line]:
    """Return exactly the lines that there is room for."""
    kept = lines[: scene.height]
    if len(lines) > scene.height:  # the last one says what to do
        kept[-1] = lines[-1]
    kept += _blank(scene.height - len(kept))
    return [_cut(line, scene.width) for line in kept]


def _cut(line: Line, width: int) -> Line:
    kept: Line = []
    left = width
    for text, style in line:
        if left <= 0:
            break
        shown = render.cut(text, left)
        kept.append((shown, style))
        left -= display_width(shown)
    return kept


def _body(scene: Scene, page: int) -> list[Line]:
    state = scene.state
    if not scene.rows:
        return [[("  nothing to show: Esc drops the filters, a shows what has nothing now", "dim")]]
    shown = scene.rows[state.offset : state.offset + page]
    room = scene.frame.spark_width
    keys = [[leaf.key for leaf in row.leaves] for row in shown] if room else []
    points = [scene.history.leaves(key, room, scene.until) for key in keys]
    return [
        row_line(
            row,
            scene.frame,
            points[number] if room else [],
            is_chosen=state.offset + number == state.at,
        )
        for number, row in enumerate(shown)
    ]


def _title(scene: Scene) -> Line:
    known, state = scene.known, scene.state
    when = f"{render.duration(known.seconds)} to {known.end[11:19]}Z"
    gap = ", spans a restart of tychod" if known.gap else ""
    mark: Line = [(" PAUSED ", "paused"), ("  ", "")] if state.paused else []
    parts: Line = [(f"{known.node}  ", "title"), (render.power(known.node_w), "power")]
    if state.unit != "W":
        joules = energy(known.node_uj(whole=state.is_whole), state.unit)
        parts.append((f"  {joules} {_since(scene)}", ""))
    return [*mark, *parts, (f"  power: {when}{gap}", "dim")]


def _since(scene: Scene) -> str:
    """Return since when energy is counted."""
    known, state = scene.known, scene.state
    if state.is_whole:
        return f"since {render.moment(known.since)}"
    return f"since {known.began[11:19]}Z"


def _trend(scene: Scene) -> Line:
    """Return the line of the node's last minutes."""
    points = scene.history.node(scene.until)
    known = [watts for _, watts in points if not isnan(watts)]
    if len(known) < 2:
        return [("trend: after the next window", "dim")]
    span_s = points[-1][0] - points[0][0] + (scene.known.seconds or 0.0)
    low, high = render.power(min(known)), render.power(max(known))
    told = f"  {low} to {high} in {render.duration(span_s)}"
    room = max(scene.width - len(told) - BAR_NAME, 8)
    values = _joined([watts for _, watts in points], room)
    floor_w = min(*known, 0.9 * max(known))  # the noise of a flat line is not a mountain
    line = spark(values, floor_w, max(known), ascii=scene.ascii)
    return [(f"{'trend':<{BAR_NAME}}", ""), (line, "spark"), (told, "dim")]


def _joined(values: list[float], room: int) -> list[float]:
    """Return at most ``room`` values, each the mean of as many as are needed."""
    each = -(-len(values) // room)
    joined = []
    for start in range(0, len(values), each):
        known = [value for value in values[start : start + each] if not isnan(value)]
        joined.append(sum(known) / len(known) if known else nan)
    return joined


def _shown_bars(known: Known, height: int) -> list[Bar]:
    """Return the domains there is room for: what makes up the total first, parts last."""
    room = 0 if height < LEAST_HEIGHT_FOR_FILTERS else max(height // 4, 1)
    has_residual = known.residual != "-"
    ranked = sorted(known.bars, key=lambda b: (not b.in_total, b.power_w is None, b.name))
    wanted = [bar for bar in ranked if bar.in_total or bar.name == "platform"]
    rest = [bar for bar in ranked if bar not in wanted]
    if has_residual:
        quality = "measured" if not known.residual else "not usable"
        residual = Bar(
            "residual", known.residual_w, None, quality, known.residual, False, *[None] * 3
        )
        wanted.append(residual)
    return [*wanted, *rest][:room]


def _bar_line(bar: Bar, scene: Scene) -> Line:
    """Return a domain's power as a bar, idle and dynamic part told apart."""
    name, watts = render.cut(bar.name, BAR_NAME - 1), render.power(bar.power_w)
    head: Line = [(f"{name:<{BAR_NAME}}", ""), (f"{watts:>{BAR_NAME}} ", "power")]
    told = _bar_told(bar)
    left = scene.width - 2 * BAR_NAME - 3
    room = min(left if scene.width < 60 else 2 * left // 5, MOST_BAR)
    most = max((b.power_w or 0.0 for b in scene.known.bars), default=0.0)
    cells = round(room * max(bar.power_w or 0.0, 0.0) / most) if most > 0 else 0
    cells = min(cells, room)
    idle = 0
    if bar.idle_w is not None and bar.power_w:
        idle = min(round(cells * max(bar.idle_w, 0.0) / bar.power_w), cells)
    blocks = "=#" if scene.ascii else "▒█"
    body: Line = [(blocks[0] * idle, "idle"), (blocks[1] * (cells - idle), _bar_style(bar))]
    if scene.width < 60:
        return [*head, *body]
    fits = [*head, *body, (" " * (room - cells + 1), "")]
    return [*fits, (told[0], ""), (told[1], "doubt" if bar.quality == "modelled" else "bad")]


def _bar_style(bar: Bar) -> str:
    if bar.quality != "measured":
        return "doubt"
    return "dynamic" if bar.idle_w is not None else "plain"


def _bar_told(bar: Bar) -> tuple[str, str]:
    """Return the parts of a domain in words, and what is wrong with it."""
    parts = ""
    if bar.idle_w is not None and bar.power_w is not None:
        dynamic_w = bar.power_w - bar.idle_w
        parts = f"idle {render.power(bar.idle_w)}, dynamic {render.power(dynamic_w)}"
    if bar.quality == "measured":
        return (parts, "")
    why = f" ({bar.reason})" if bar.reason not in ("", "-") else ""
    return (f"{parts}, " if parts else "", f"{bar.quality}{why}")


def _filters(scene: Scene) -> str:
    """Return how the list is ordered and what is left out of it."""
    state = scene.state
    known = _count(scene.known.leaves)
    told = [f"{'tree' if state.is_tree else 'flat'} by {state.sort}"]
    told[0] += " upwards" if state.reverse else ""
    if state.kind:
        told.append(f"kind {state.kind}")
    if state.namespace:
        told.append(f"namespace {render.name(state.namespace)}")
    if state.text:
        told.append(f"text {render.name(state.text)}")
    if scene.known.unlabelled:
        told.append(f"{scene.known.unlabelled} not shown: labels not known")
    if state.everything:
        told.append("all")
    shown = sum(_count(row.leaves) for row in scene.rows if row.depth == 0)
    told.append(f"{shown} of {known} workloads")
    if len(scene.rows) > page_of(scene.known, scene.height):
        told.append(f"row {state.at + 1} of {len(scene.rows)}")
    return ", ".join(told)


def _count(leaves: Sequence[Leaf]) -> int:
    """Return how many workloads these are; the past of evicted ones is none."""
    return sum(leaf.kind != "past" for leaf in leaves)


def _detail(scene: Scene) -> Line:
    """Return the line about the chosen row, with its trend where the list has no room for one."""
    state = scene.state
    if not 0 <= state.at < len(scene.rows):
        return []
    row = scene.rows[state.at]
    who = row.label if row.label.startswith(row.kind) else f"{row.kind} {row.label}"
    told = f"{who}: {render.power(row.power_w)}"
    leaf = row.leaf
    if leaf is not None and leaf.sd_w is not None:
        told += f" ± {render.power(NORMAL_95 * leaf.sd_w)}"
    told += f", {render.energy(row.energy_uj)} {_since(scene)}{_remarks(row, scene.width)}"
    points = scene.history.leaves([leaf.key for leaf in row.leaves], 30, scene.until)
    values = [value for value in points if not isnan(value)]
    if scene.frame.spark_width or len(values) < 2:
        return [(told, "detail")]
    line = spark(values, 0.0, max(values), ascii=scene.ascii)
    return [(f"{told}  ", "detail"), (line, "spark")]


def _remarks(row: Row, width: int) -> str:
    """Return what is special about a row; flags with their meaning where there is room."""
    leaf = row.leaf
    if leaf is None:
        count = _count(row.leaves)
        ended = sum(leaf.is_ended and leaf.kind != "past" for leaf in row.leaves)
        counted = f", {count} workload{'' if count == 1 else 's'}" if count else ""
        return counted + (f", {ended} of them ended" if ended else "")
    meanings: Mapping[str, str] = {}
    if width >= LEAST_WIDTH_FOR_MEANINGS:
        from tychod.flags import LEAF_FLAGS

        meanings = LEAF_FLAGS
    told = [] if leaf.state == "running" or leaf.is_ended else [leaf.state]
    told += [f"{flag} ({meanings[flag]})" if flag in meanings else flag for flag in leaf.flags]
    return "".join(f", {remark}" for remark in (*told, *([leaf.reason] if leaf.reason else [])))


def _bottom(scene: Scene) -> Line:
    """Return the last line: what is typed, what must be known, or which keys there are."""
    state = scene.state
    if state.mode in ("text", "namespace"):
        return [
            (f"{state.mode}: ", "title"),
            (f"{render.escape(state.typed)}_", ""),
            ("  Enter keeps it, Esc drops it", "dim"),
        ]
    return [(scene.told, "bad")] if scene.told else [(HINTS, "dim")]


def _help(scene: Scene) -> list[Line]:
    page = max(scene.height - 1, 1)
    lines: list[Line] = [[(f"{keys:<14}", "title"), (told, "")] for keys, told in HELP]
    shown = lines[scene.state.help_offset :][:page]
    more = len(HELP) > page
    told = "up and down for more, any other key goes back" if more else "any key goes back"
    return [*shown, *_blank(page - len(shown)), [(told, "dim")]]
