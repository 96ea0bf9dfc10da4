#!/usr/bin/env python3
"""Draws a few milliseconds of a timeline (choir ... --trace FILE.json) as SVG.

    python3 bench/trace_picture.py FILE.json --step 20 [--from-us A] [--to-us B] --out docs/trace.svg

Rows are ranks; in each, from the top: step, layers, phases, collectives. Times count from the
beginning of the step on rank 0.
"""
import argparse
import html
import json

WIDTH, LEFT, RIGHT, ROW, GAP, TOP = 1200, 118, 28, 22, 14, 66
DEPTHS = ["step", "layer", "phase", "collective"]
# Readable in grey too: the collectives, which are waits, are the darkest.
FILLS = {"step": "#dfe6ee", "layer": ["#bcd0e4", "#a9c2db"], "collective": "#a33b2a"}
PHASES = {"taking the step's order": "#e8e3d3", "embedding": "#d8c9e8", "q, k, v projections": "#f2d19b",
          "attention": "#9fd0b8", "o_proj": "#f5e2a8", "MLP": "#eeb37e", "down_proj": "#f0c9a0",
          "logits": "#c7b5dd", "sampling": "#d9d9d9"}
INK = "#1b1b1b"


def fill_of(event):
    category = event["cat"]
    if category == "phase":
        return PHASES.get(event["name"], "#eeeeee")
    if category == "layer":
        return FILLS["layer"][event["args"]["layer"] % 2]
    return FILLS[category]


def text(x, y, words, size=11, anchor="start", fill=INK, weight="normal"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{fill}" '
            f'font-weight="{weight}">{html.escape(words)}</text>')


def nice_step(span_us):
    """A distance of ticks that gives 5 to 12 of them."""
    unit = 1
    while True:
        for factor in (1, 2, 5):
            if span_us / (unit * factor) <= 12:
                return unit * factor
        unit *= 10


def slice_svg(event, x0, x1, y):
    lines = [f'<rect x="{x0:.2f}" y="{y}" width="{max(x1 - x0, 0.4):.2f}" height="{ROW - 2}" '
             f'fill="{fill_of(event)}"><title>{html.escape(event["name"])}: {event["dur"]:.1f} us</title></rect>']
    size = 10
    shown = event["name"]
    if len(shown) * size * 0.56 < x1 - x0:
        ink = "#ffffff" if event["cat"] == "collective" else INK
        lines.append(text((x0 + x1) / 2, y + ROW - 8, shown, size, "middle", ink))
    return lines


def legend(events, begin, end):
    """The phases and collectives that are to be seen, in the order in which they begin."""
    seen = {}
    for event in sorted(events, key=lambda e: e["ts"]):
        if event["cat"] in ("phase", "collective") and event["ts"] < end and event["ts"] + event["dur"] > begin:
            name = "collectives (waiting included)" if event["cat"] == "collective" else event["name"]
            seen.setdefault(name, fill_of(event))
    lines, x = [], LEFT
    for name, fill in seen.items():
        lines.append(f'<rect x="{x}" y="32" width="11" height="11" fill="{fill}" stroke="#888888" stroke-width="0.5"/>')
        lines.append(text(x + 15, 42, name, 11))
        x += 30 + 6.3 * len(name)
    return lines


def draw(trace, step, from_us, to_us):
    events = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    names = {e["pid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"}
    first = next(e for e in events if e["cat"] == "step" and e["pid"] == 0 and e["args"]["step"] == step)
    origin = first["ts"]
    to_us = first["dur"] * 1.02 if to_us is None else to_us
    scale = (WIDTH - LEFT - RIGHT) / (to_us - from_us)
    height = TOP + len(names) * (len(DEPTHS) * ROW + GAP) + 34

    def x_of(us):
        return LEFT + (min(max(us, from_us), to_us) - from_us) * scale

    bottom = height - 34
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
             f'font-family="Helvetica, Arial, sans-serif">',
             f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
             text(12, 20, f'step {step}: {first["args"]["rows"]} row{"s" if first["args"]["rows"] != 1 else ""}, {first["dur"] / 1000:.2f} ms on rank 0',
                  13, weight="bold")]
    tick = nice_step(to_us - from_us)
    unit, unit_us = ("milliseconds", 1000) if to_us - from_us > 20000 else ("microseconds", 1)
    at = -(-from_us // tick) * tick
    while at <= to_us:
        x = x_of(at)
        lines.append(f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{bottom}" stroke="#dddddd"/>')
        lines.append(text(x, bottom + 16, f"{at / unit_us:g}", 11, "middle"))
        at += tick
    lines.append(text(WIDTH - RIGHT, bottom + 31, f"{unit} since the step began on rank 0", 11, "end"))
    for row, (rank, name) in enumerate(sorted(names.items())):
        y = TOP + row * (len(DEPTHS) * ROW + GAP)
        lines.append(text(12, y + 15, name.split(" on ")[0], 12, weight="bold"))
        for depth, category in enumerate(DEPTHS):
            if depth > 0:
                lines.append(text(LEFT - 8, y + depth * ROW + 14, category, 10, "end", "#666666"))
            for event in events:
                begin, end = event["ts"] - origin, event["ts"] + event["dur"] - origin
                if event["pid"] == rank and event["cat"] == category and end > from_us and begin < to_us:
                    lines += slice_svg(event, x_of(begin), x_of(end), y + depth * ROW)
    lines += legend(events, origin + from_us, origin + to_us)
    lines.append("</svg>")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace")
    parser.add_argument("--step", type=int, default=0)
    parser.add_argument("--from-us", type=float, default=0)
    parser.add_argument("--to-us", type=float)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    with open(options.trace, encoding="utf-8") as file:
        trace = json.load(file)
    with open(options.out, "w", encoding="utf-8") as file:
        file.write(draw(trace, options.step, options.from_us, options.to_us))


if __name__ == "__main__":
    main()
