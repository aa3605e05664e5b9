"""A picture of how cost grows: both axes logarithmic, so what is linear rises by one in one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from pathlib import Path

_COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#7b5ea7", "#b08900", "#666666")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 460, 70, 250, 40, 50

Points = Sequence[tuple[float, float]]


def draw(name: str, title: str, lines: Mapping[str, Points], *, x: str, y: str) -> Path:
    """Write build/bench/NAME.svg, or below FPD_BENCH_OUT, and return where that is."""
    folder = Path(os.environ.get("FPD_BENCH_OUT", Path(__file__).parents[2] / "build" / "bench"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    path.write_text(_svg(title, lines, x, y), encoding="utf-8")
    return path


def _svg(title: str, lines: Mapping[str, Points], x: str, y: str) -> str:
    points = [point for line in lines.values() for point in line]
    across = _axis([point[0] for point in points], _LEFT, _WIDTH - _RIGHT)
    up = _axis([point[1] for point in points], _HEIGHT - _BOTTOM, _TOP)
    parts = [_text(_LEFT, 22, title, "font-weight='bold'")]
    for value, at in across[1]:
        parts.append(f"<path d='M{at:.1f},{_TOP}V{_HEIGHT - _BOTTOM}' stroke='#ddd'/>")
        parts.append(_text(at, _HEIGHT - _BOTTOM + 18, f"{value:g}", "text-anchor='middle'"))
    for value, at in up[1]:
        parts.append(f"<path d='M{_LEFT},{at:.1f}H{_WIDTH - _RIGHT}' stroke='#ddd'/>")
        parts.append(_text(_LEFT - 8, at + 4, f"{value:g}", "text-anchor='end'"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, x, "text-anchor='middle'"))
    parts.append(_text(8, _HEIGHT - 10, y, ""))
    for number, (label, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        placed = [(across[0](a), up[0](b)) for a, b in sorted(line)]
        path = "L".join(f"{a:.1f},{b:.1f}" for a, b in placed)
        parts.append(f"<path d='M{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        parts += [f"<circle cx='{a:.1f}' cy='{b:.1f}' r='4' fill='{colour}'/>" for a, b in placed]
        beside = _TOP + 14 + 22 * number
        parts.append(_text(_WIDTH - _RIGHT + 14, beside, label, f"fill='{colour}'"))
    head = f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{_HEIGHT}'"
    body = "\n".join(["<rect width='100%' height='100%' fill='white'/>", *parts])
    return f"{head} font-family='sans-serif' font-size='13'>\n{body}\n</svg>\n"


def _axis(
    values: Sequence[float], first: float, last: float
) -> tuple[Callable[[float], float], list[tuple[float, float]]]:
    """Return where a value is placed, and the powers of ten with their places."""
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    high = max(high, low + 1)

    def place(value: float) -> float:
        return first + (last - first) * (log10(value) - low) / (high - low)

    return place, [(10.0**n, place(10.0**n)) for n in range(low, high + 1)]


def _text(x: float, y: float, text: str, more: str) -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' {more}>{escape(text)}</text>"
