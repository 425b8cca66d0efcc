"""Plots as plain SVG: rows of dots on a logarithmic axis, readable on a light page and on a dark one."""

import math
from xml.sax.saxutils import escape

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 15px }
  .small { font-size: 11px; fill: #57606a }
  .grid { stroke: #d0d7de; stroke-width: 1 }
  .ours { fill: #0969da } .gateway { fill: #bc4c00 } .proxy { fill: #6e7781 } .floor { fill: #1a7f37 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .small { fill: #9198a1 }
    .grid { stroke: #3d444d }
    .ours { fill: #4493f8 } .gateway { fill: #f0883e } .proxy { fill: #8d96a0 } .floor { fill: #3fb950 }
  }
"""
LABELS, WIDTH, ROW, TOP, RIGHT = 220, 860, 24, 64, 70
LEGEND = (("ours", "Tidegate"), ("gateway", "gateways for models"), ("proxy", "general proxies"), ("floor", "the mock itself"))
SHAPES = ("o", "s", "d")


def rows(title, unit, entries, series=("",)):
    """A plot. An entry is a label, a kind, and a value for each of the series (none where there is none)."""
    entries = [entry for entry in entries if any(value for value in entry[2])]
    values = [value for _, _, found in entries for value in found if value]
    if not values:
        return None
    axis = Axis(min(values), max(values))
    height = TOP + ROW * len(entries) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text class="title" x="12" y="22">{escape(title)}</text>',
        *_legend(entries, series),
        *_grid(axis, height, unit),
    ]
    for index, (label, kind, found) in enumerate(entries):
        parts += _row(axis, TOP + ROW * index, label, kind, found)
    return "\n".join([*parts, "</svg>", ""])


class Axis:
    """A logarithmic axis from a power of ten below all values to a round number above them."""

    def __init__(self, least, most):
        self.low = math.floor(math.log10(least * 0.9))
        self.high = math.log10(most) + 0.05

    def x(self, value):
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return LABELS + share * (WIDTH - LABELS - RIGHT)

    def ticks(self):
        """Powers of ten, and 2 and 5 times those if there is room."""
        factors = (1,) if self.high - self.low > 3 else (1, 2, 5)
        found = [factor * 10**power for power in range(self.low, math.ceil(self.high) + 1) for factor in factors]
        return [value for value in found if math.log10(value) <= self.high]


def number(value):
    """As few digits as tell it."""
    if value >= 9.95 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 0.995 else f"{value:.2g}"


def _legend(entries, series):
    parts, x = [], 12
    kinds = {kind for _, kind, _ in entries}
    for kind, text in LEGEND:
        if kind in kinds:
            parts.append(f'<rect class="{kind}" x="{x}" y="34" width="10" height="10"/>')
            parts.append(f'<text class="small" x="{x + 15}" y="43">{text}</text>')
            x += 30 + 6.2 * len(text)
    if len(series) > 1:
        x += 20
        for shape, text in zip(SHAPES, series, strict=False):
            parts.append(_mark("proxy", shape, x, 39))
            parts.append(f'<text class="small" x="{x + 10}" y="43">{escape(text)}</text>')
            x += 30 + 6.2 * len(text)
    return parts


def _grid(axis, height, unit):
    parts = []
    for value in axis.ticks():
        x = axis.x(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{height - 26}"/>')
        parts.append(f'<text class="small" x="{x:.1f}" y="{height - 12}" text-anchor="middle">{number(value)}</text>')
    parts.append(f'<text class="small" x="12" y="{height - 12}">{escape(unit)}</text>')
    return parts


def _row(axis, y, label, kind, found):
    parts = [f'<text x="{LABELS - 10}" y="{y + 13}" text-anchor="end">{escape(label)}</text>']
    shown = [value for value in found if value]
    parts.append(
        f'<line class="grid" x1="{axis.x(min(shown)) if len(shown) > 1 else LABELS:.1f}" y1="{y + 8}" x2="{axis.x(max(shown)):.1f}" y2="{y + 8}"/>'
    )
    for shape, value in zip(SHAPES, found, strict=False):
        if value:
            parts.append(_mark(kind, shape, axis.x(value), y + 8))
    parts.append(f'<text class="small" x="{axis.x(max(shown)) + 9:.1f}" y="{y + 12}">{number(max(shown))}</text>')
    return parts


def _mark(kind, shape, x, y):
    if shape == "o":
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
    turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if shape == "d" else ""
    return f'<rect class="{kind}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"{turn}/>'
