#!/usr/bin/env python3
"""Draws what `choir bench --sweep` and `choir bench --serve` wrote with --json FILE.

    pip install -r bench/plot-requirements.txt
    bench/plot.py ROWS.jsonl --out FOLDER

writes scaling, efficiency, split and roofline of sweeps, load-closed and load-open of servers, each as PNG and SVG, and
report.html, which needs no other file. Colours differ in brightness, and lines, markers and hatches differ too, so that a print in
grey tells as much. Rows of several models make a set of charts each. Exit status 1 with a message when
a file has no such rows; 77 without matplotlib.
"""
import argparse
import base64
import html
import json
import os
import re
import sys

import plot_serve

PHASES = ("prefill", "decode")
# From dark to light; the order in which a step does them.
PARTS = (
    ("matrix", "#1b3a57", ""),
    ("attention", "#2a7f9e", "///"),
    ("elementwise", "#7fb685", "..."),
    ("sampling", "#c9d7a8", "xx"),
    ("exchange", "#e08e45", "\\\\\\"),
    ("waiting", "#f3ead7", "--"),
)
SERIES = (
    ("#14283d", "-", "o"),
    ("#b5482a", "--", "s"),
    ("#3aa6a6", "-.", "^"),
    ("#a98fd8", ":", "D"),
    ("#e0aa2e", (0, (5, 1, 1, 1, 1, 1)), "v"),
    ("#7a7a7a", (0, (3, 1)), "P"),
    ("#7a2350", (0, (1, 1)), "X"),
    ("#8dbb5e", (0, (8, 2)), "*"),
)
MOST_SERIES = len(SERIES)
MOST_BARS = 24


def fail(message):
    print(f"plot.py: {message}", file=sys.stderr)
    sys.exit(1)


def read_rows(paths):
    """Rows of sweeps, and of servers; other rows of choir bench are left out."""
    rows, of_servers = [], []
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    if not line.strip():
                        continue
                    row = json.loads(line)
                    if isinstance(row, dict) and "scaling" in row:
                        rows.append(row)
                    elif isinstance(row, dict) and row.get("kind") == "serve":
                        of_servers.append(row)
        except OSError as error:
            fail(f"{path}: cannot read: {error.strerror}")
        except json.JSONDecodeError as error:
            fail(f"{path}: line {number}: expected JSON, found {error.msg}")
    if not rows and not of_servers:
        fail(f"{', '.join(paths)}: expected rows of choir bench --sweep or --serve, found none")
    return rows, of_servers


def title(row):
    layers = "" if row["layers"] == row["model_layers"] else f", {row['layers']} of {row['model_layers']} layers"
    return f"{row['model']}{layers}, {row['dtype']}"


def groups(rows):
    """Rows that belong into one chart, by model, layers and dtype."""
    found = {}
    for row in rows:
        found.setdefault(title(row), []).append(row)
    return found


def split_name(row):
    """Ranks × threads, and into how many replicas the ranks divide."""
    return f"{row['ranks']}×{row['threads']}" + ("" if row["replicas"] == 1 else f" in {row['replicas']} replicas")


def best(rows, y):
    """(cores, value, split): where several splits have as many cores (1×2, 2×1), the fastest, named."""
    points, splits = {}, {}
    for row in rows:
        if row.get(y) is None:
            continue
        splits.setdefault(row["cores"], set()).add(split_name(row))
        points[row["cores"]] = max(points.get(row["cores"], (0, "")), (row[y], split_name(row)))
    return [(cores, value, name if len(splits[cores]) > 1 else "") for cores, (value, name) in sorted(points.items())]


def series_of(rows):
    """(label, rows): one for each scaling, number of sequences and context."""
    found = {}
    for row in rows:
        many = "s" if row["base_batch"] != 1 else ""
        label = f"{row['scaling']}, {row['base_batch']} sequence{many}"
        if row["scaling"] == "weak":
            label += f" per {row['base_cores']} core" + ("s" if row["base_cores"] != 1 else "")
        found.setdefault((row["scaling"], row["base_batch"], row["context"], f"{label}, context {row['context']:,}"), []).append(row)
    ordered = sorted(found.items())
    # Too many lines tell nothing: the smallest and largest stay, and what lies evenly between.
    if len(ordered) > MOST_SERIES:
        step = (len(ordered) - 1) / (MOST_SERIES - 1)
        ordered = [ordered[round(i * step)] for i in range(MOST_SERIES)]
    return [(key[3], members) for key, members in ordered]


def prepare_axis(axis, name, cores):
    axis.set_title(name, loc="left")
    axis.set_xscale("log", base=2)
    axis.set_xticks(cores, [f"{c:,}" for c in cores])
    axis.minorticks_off()
    axis.set_xlabel("cores (ranks × threads)")
    axis.grid(True, color="#d8d8d8", linewidth=0.6)
    axis.set_axisbelow(True)


def draw_lines(plt, rows, metric, label):
    """Speed-up or efficiency against cores, prefill and decode side by side."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.9), sharey=True, layout="constrained")
    cores = sorted({row["cores"] for row in rows})
    base = min(cores)
    for axis, phase in zip(axes, PHASES):
        prepare_axis(axis, phase, cores)
        ideal = [c / base if metric == "speedup" else 1 for c in cores]
        axis.plot(cores, ideal, color="#9a9a9a", linewidth=1, label="ideal", zorder=1)
        for (text, members), (colour, line, marker) in zip(series_of(rows), SERIES):
            points = best(members, f"{phase}_{metric}")
            axis.plot([p[0] for p in points], [p[1] for p in points], color=colour, linestyle=line, marker=marker, markersize=6, label=text,
                      markeredgecolor="white", markeredgewidth=0.6)
            for cores_here, value, split in points:
                axis.annotate(split, (cores_here, value), textcoords="offset points", xytext=(5, 4), fontsize=7,
                              color=colour)
    axes[0].set_ylim(bottom=0)  # both, now that all lines are there
    axes[0].set_ylabel(label)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9, handlelength=4)
    figure.suptitle(title(rows[0]), fontsize=11)
    return figure


def bar_label(row):
    return f"{split_name(row)}, batch {row['total_batch']}, context {row['context']:,}"


def duration(seconds):
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def unique(rows):
    """One of the rows that were measured at once, for strong and weak scaling."""
    found = {}
    for row in rows:
        found.setdefault(bar_label(row), row)
    ordered = sorted(found.values(), key=lambda r: (r["context"], r["total_batch"], r["cores"], r["ranks"]))
    if len(ordered) > MOST_BARS:
        step = (len(ordered) - 1) / (MOST_BARS - 1)
        ordered = [ordered[round(i * step)] for i in range(MOST_BARS)]
    return ordered


def draw_split(plt, rows):
    """Where the time goes, means over ranks, in percent; the time itself at the bar's end."""
    rows = unique(rows)
    figure, axes = plt.subplots(
        1, 2, figsize=(11, 1.9 + 0.3 * len(rows)), sharey=True, layout="constrained")
    for axis, phase in zip(axes, PHASES):
        totals = [sum(row[f"{phase}_{part}_s_mean"] for part, _, _ in PARTS) for row in rows]
        left = [0.0] * len(rows)
        for part, colour, hatch in PARTS:
            width = [100 * row[f"{phase}_{part}_s_mean"] / total if total > 0 else 0
                     for row, total in zip(rows, totals)]
            axis.barh(range(len(rows)), width, left=left, height=0.74, color=colour, hatch=hatch,
                      edgecolor="white" if part in ("matrix", "attention") else "#444444", linewidth=0.5, label=part)
            left = [a + b for a, b in zip(left, width)]
        for i, total in enumerate(totals):
            axis.text(101.5, i, duration(total), va="center", fontsize=8)
        axis.set_title(phase if phase == "prefill" else "one decode step", loc="left")
        axis.set_xlim(0, 118)
        axis.set_xticks(range(0, 101, 20))
        axis.set_xlabel("share of the time (%), mean of the ranks")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(rows)), [bar_label(row) for row in rows], fontsize=9)
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    axes[0].set_ylabel("ranks × threads")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(PARTS), frameon=False, fontsize=9)
    figure.suptitle(title(rows[0]), fontsize=11)
    return figure


def intensity(row, phase):
    """FLOP of the weight matrices for each byte that has to be read at least: weights once a step, keys
    and values. Those of one replica."""
    if phase == "decode":
        return row["decode_flop"] / (row["decode_weight_bytes"] + row["decode_kv_bytes"])
    steps = -(-row["batch"] * row["prompt_tokens"] // 512)  # of rows without their own count
    return row["prefill_flop"] / row.get("prefill_weight_bytes", steps * row["decode_weight_bytes"])


def draw_roofline(plt, rows):
    figure, axis = plt.subplots(figsize=(9, 5.6), layout="constrained")
    points = [(intensity(row, phase), row[f"{phase}_flop_per_s"] * 1e-9, phase, row["cores"])
              for row in unique(rows) for phase in PHASES if row.get(f"{phase}_flop_per_s")]
    cores = sorted({row["cores"] for row in rows})
    low, high = min(p[0] for p in points) / 2, max(p[0] for p in points) * 3
    for n, (colour, line, marker) in zip(cores, SERIES):
        members = [row for row in rows if row["cores"] == n and row.get("peak_flop_per_s")]
        if not members:
            continue
        peak = sorted(row["peak_flop_per_s"] for row in members)[len(members) // 2] * 1e-9
        read = sorted(row["read_bandwidth_bytes_per_s"] for row in members)[len(members) // 2] * 1e-9
        ridge = peak / read
        high = max(high, ridge * 3)
        axis.plot([low, ridge, high], [low * read, peak, peak], color=colour, linestyle=line, linewidth=1.4,
                  label=f"roof of {n} core{'s' if n != 1 else ''}: {read:,.0f} GB/s, {peak:,.0f} GFLOP/s")
        for phase in PHASES:
            mine = [p for p in points if p[2] == phase and p[3] == n]
            axis.scatter([p[0] for p in mine], [p[1] for p in mine], marker=marker, s=42, linewidths=1.2,
                         facecolors=colour if phase == "decode" else "white", edgecolors=colour, zorder=3,
                         label=f"{phase}, {n} core{'s' if n != 1 else ''}")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(low, high)
    axis.set_xlabel("FLOP of the weight matrices per byte that has to be read (FLOP/byte)")
    axis.set_ylabel("reached (GFLOP/s)")
    axis.grid(True, which="major", color="#d8d8d8", linewidth=0.6)
    axis.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    axis.set_title(title(rows[0]), fontsize=11)
    return figure


CHARTS = (
    ("scaling", "Scaling", lambda plt, rows: draw_lines(plt, rows, "speedup", "speed-up over the fewest cores"),
     "Tokens a second over those of the fewest cores; where several splits into ranks × threads have as many cores, the fastest, named beside its point."),
    ("efficiency", "Efficiency", lambda plt, rows: draw_lines(plt, rows, "efficiency", "efficiency (speed-up / cores)"),
     "Speed-up over the ratio of cores: 1 is ideal. Splits are named as above."),
    ("split", "Where the time goes", draw_split,
     "Thread 0 of each rank, mean of the ranks. Exchange is what the rank spends on gathers and messages that "
     "spends least; what others spend beyond it is waiting."),
    ("roofline", "Roofline", draw_roofline,
     "Roofs are the read bandwidth and the multiply-add peak measured in the same runs. Bytes are the least that "
     "must be read: weights once a step, keys and values in decode. Attention's FLOP are not counted."),
)

COLUMNS = (
    ("scaling", "scaling", "{}"), ("ranks", "ranks", "{}"), ("threads", "threads", "{}"),
    ("replicas", "replicas", "{}"), ("total_batch", "sequences", "{}"), ("context", "context", "{:,}"),
    ("prefill_tokens_per_s", "prefill, tokens/s", "{:,.1f}"), ("prefill_speedup", "speed-up", "{:.2f}"),
    ("prefill_efficiency", "efficiency", "{:.2f}"), ("prefill_serial_fraction", "serial fraction", "{:.3f}"),
    ("prefill_peak_share", "of the peak", "{:.0%}"), ("decode_tokens_per_s", "decode, tokens/s", "{:,.2f}"),
    ("decode_speedup", "speed-up", "{:.2f}"), ("decode_efficiency", "efficiency", "{:.2f}"),
    ("decode_serial_fraction", "serial fraction", "{:.3f}"),
    ("decode_bandwidth_share", "of the bandwidth", "{:.0%}"), ("decode_exchange_bytes", "bytes exchanged a step", "{:,.0f}"),
)

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;color:#222}
img{max-width:100%;height:auto}table{border-collapse:collapse;font-size:12px}div.wide{overflow-x:auto}
td,th{padding:3px 8px;text-align:right;border-bottom:1px solid #ddd}th{vertical-align:bottom}
h1{font-size:1.5em}h2{margin-top:2em;font-size:1.2em}figcaption{color:#555;font-size:13px}figure{margin:1em 0 2em}"""


def table(rows):
    head = "".join(f"<th>{html.escape(name)}</th>" for _, name, _ in COLUMNS)
    body = []
    for row in rows:
        cells = (form.format(row[key]) if row.get(key) is not None else "" for key, _, form in COLUMNS)
        body.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    return f"<div class=\"wide\"><table><tr>{head}</tr>{''.join(body)}</table></div>"


def shown(chart):
    name, caption, png = chart
    data = base64.b64encode(png).decode("ascii")
    return (f"<figure><img alt=\"{html.escape(name)}\" src=\"data:image/png;base64,{data}\">"
            f"<figcaption><b>{html.escape(name)}.</b> {html.escape(caption)}</figcaption></figure>")


def save(plt, figure, path):
    """The PNG's bytes."""
    figure.savefig(path + ".png", dpi=150)
    figure.savefig(path + ".svg", metadata={"Date": None})
    plt.close(figure)
    print(f"{path}.png, .svg")
    with open(path + ".png", "rb") as png:
        return png.read()


def write_report(path, sections, server_charts):
    parts = [f"<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>choir bench</title>"
             f"<style>{STYLE}</style><h1>Measurements of choir</h1>", *map(shown, server_charts)]
    for rows, charts in sections:
        first = rows[0]
        parts.append(f"<h2>{html.escape(title(first))}</h2><p>{html.escape(first['cpu'])}, {html.escape(first['isa'])}, "
                     f"{first['time_utc']}, choir {html.escape(first['version'])}; medians of {first['repeat']} "
                     f"repetitions.</p>")
        parts += [*map(shown, charts), table(rows)]
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(parts) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("rows", nargs="+", metavar="ROWS.jsonl", help="what choir bench --sweep or --serve wrote with --json")
    parser.add_argument("--out", default=".", metavar="FOLDER", help="where the charts go; made if need be")
    arguments = parser.parse_args()
    try:
        import matplotlib
    except ImportError:
        print("plot.py: matplotlib is missing: pip install -r bench/plot-requirements.txt", file=sys.stderr)
        sys.exit(77)
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "choir", "hatch.linewidth": 0.6, "font.size": 10,
                         "axes.spines.top": False, "axes.spines.right": False})
    of_sweeps, of_servers = read_rows(arguments.rows)
    found = groups(of_sweeps)
    os.makedirs(arguments.out, exist_ok=True)
    sections = []
    for name, rows in found.items():
        rows.sort(key=lambda r: (r["scaling"], r["context"], r["base_batch"], r["cores"], r["ranks"], r["replicas"]))
        suffix = "" if len(found) == 1 else "-" + re.sub(r"[^A-Za-z0-9.]+", "-", name)
        charts = []
        for file, heading, draw, caption in CHARTS:
            charts.append((heading, caption, save(plt, draw(plt, rows), os.path.join(arguments.out, file + suffix))))
        sections.append((rows, charts))
    report = os.path.join(arguments.out, "report.html")
    server_charts = [(heading, caption, save(plt, figure, os.path.join(arguments.out, file)))
                     for file, heading, caption, figure in plot_serve.charts(plt, of_servers)]
    write_report(report, sections, server_charts)
    print(report)


if __name__ == "__main__":
    main()
