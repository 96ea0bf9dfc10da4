"""The charts of rows of `choir bench --serve`, for plot.py: what clients see of a server under growing load."""

TIMES = (("first_token_s", "time to first token (ms)"), ("inter_token_s", "time between tokens (ms)"))
PERCENTILES = (("p50", "-"), ("p90", "--"), ("p99", ":"))
COLOURS = (("#14283d", "o"), ("#b5482a", "s"), ("#3aa6a6", "^"), ("#a98fd8", "D"), ("#e0aa2e", "v"), ("#7a7a7a", "P"))

LOADS = (
    ("closed", "clients", "Load of clients that ask one after another",
     "Each client asks again when its answer has ended (closed loop)."),
    ("open", "requests a second", "Load at a rate",
     "Requests begin at random times, whatever is under way (open loop, Poisson)."),
)


def load_of(row):
    return "open" if row["rate"] > 0 else "closed"


def name_of(row):
    return f"{row['model']} at {row['url']}, answers of {row['gen_tokens_each']} tokens"


def points(rows):
    """Of each server its rows by load: {name: [(load, row)]}."""
    found = {}
    for row in rows:
        found.setdefault(name_of(row), []).append((row["rate"] or row["clients"], row))
    return {name: sorted(members, key=lambda member: member[0]) for name, members in found.items()}


def draw(plt, rows, load_name):
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
    axes[0].set_title("tokens a second", loc="left")
    for axis, (_, label) in zip(axes[1:], TIMES):
        axis.set_title(label, loc="left")
    for (name, members), (colour, marker) in zip(points(rows).items(), COLOURS):
        x = [load for load, _ in members]
        axes[0].plot(x, [row["gen_tokens_per_s"] for _, row in members], color=colour, marker=marker, label=name)
        for axis, (key, _) in zip(axes[1:], TIMES):
            for percentile, line in PERCENTILES:
                axis.plot(x, [1e3 * (row[key][percentile] or 0) for _, row in members], color=colour, linestyle=line, marker=marker,
                          markersize=4)
    for axis in axes:
        axis.set_xlabel(load_name)
        axis.set_ylim(bottom=0)
        axis.grid(True, color="#d8d8d8", linewidth=0.6)
    for percentile, line in PERCENTILES:
        axes[2].plot([], [], color="#444444", linestyle=line, label=percentile)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def charts(plt, rows):
    """(file, heading, caption, figure) for each kind of load that the rows have."""
    for load, load_name, heading, caption in LOADS:
        of_load = [row for row in rows if load_of(row) == load]
        if of_load:
            yield "load-" + load, heading, caption, draw(plt, of_load, load_name)
