"""Draws docs/momentum_schedules.svg: ``python docs/momentum_schedules.py`` writes it anew.

The background is transparent, and each colour stands out from white and from black alike, so that
one file serves light pages and dark ones.
"""

from math import log10
from pathlib import Path

from nadam_xla.coefficients import constant_momentum, scheduled_momentum

B1 = 0.9
STEPS = 100_000
POINTS_A_DECADE = 24

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 700, 24, 300
LOWEST, HIGHEST = 0.4, 0.95
GRAY = "#767d86"

SCHEDULES = {  # the colour, the label and where it stands: a step, and a distance from the curve
    "optax": ("#2a7de1", "optax: b1 at every step", 1.25, -10),
    "Keras": ("#c85f28", "Keras: 0.96^t", 26, 22),
    "PyTorch": ("#2b9259", "PyTorch and Dozat: 0.96^(t/250)", 900, 26),
}


def momentum(framework: str, step: int) -> float:
    if framework == "optax":
        return float(constant_momentum(B1, step).current)
    momentum_decay = {"Keras": 1.0, "PyTorch": 0.004}[framework]
    return float(scheduled_momentum(B1, step, momentum_decay, 1.0).current)


def x_of(step: float) -> float:
    return LEFT + (RIGHT - LEFT) * log10(step) / log10(STEPS)


def y_of(value: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * (value - LOWEST) / (HIGHEST - LOWEST)


def steps() -> list[int]:
    """So many whole steps a decade, each of them once."""
    count = round(POINTS_A_DECADE * log10(STEPS))
    return sorted({round(10 ** (i / POINTS_A_DECADE)) for i in range(count + 1)})


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def text(x: float, y: float, content: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{content}</text>'


def axes() -> list[str]:
    faint = f'stroke="{GRAY}" stroke-opacity="0.35"'
    parts = []
    for value in (0.45, 0.6, 0.75, 0.9):
        y = y_of(value)
        parts.append(line(LEFT, y, RIGHT, y, faint))
        parts.append(text(LEFT - 8, y + 5, f"{value}", f'text-anchor="end" fill="{GRAY}"'))
    for decade in range(round(log10(STEPS)) + 1):
        step = 10**decade
        parts.append(line(x_of(step), BOTTOM, x_of(step), BOTTOM + 6, f'stroke="{GRAY}"'))
        label = f"{step:,}".replace(",", " ")
        anchor = "end" if step == STEPS else "middle"
        parts.append(text(x_of(step), BOTTOM + 24, label, f'text-anchor="{anchor}" fill="{GRAY}"'))
    parts.append(line(LEFT, BOTTOM, RIGHT, BOTTOM, f'stroke="{GRAY}"'))
    middle = (LEFT + RIGHT) / 2
    title = "step t; drawn is its momentum, with b1 = 0.9"
    parts.append(text(middle, BOTTOM + 50, title, f'text-anchor="middle" fill="{GRAY}"'))
    return parts


def curve(framework: str) -> list[str]:
    colour, label, at, below = SCHEDULES[framework]
    points = " ".join(f"{x_of(t):.1f},{y_of(momentum(framework, t)):.1f}" for t in steps())
    y = y_of(momentum(framework, round(at))) + below
    return [
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>',
        text(x_of(at), y, label, f'fill="{colour}"'),
    ]


def picture() -> str:
    parts = axes()
    for framework in SCHEDULES:
        parts += curve(framework)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
            ' font-family="system-ui, sans-serif" font-size="15" role="img"'
            ' aria-label="The momentum of each step in optax, Keras and PyTorch">',
            *parts,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(picture())
