#!/usr/bin/env python3
"""The plots of a benchmark, drawn with gnuplot from its results.

    plots.py [DIRECTORY]     those of DIRECTORY/results into DIRECTORY/plots; of each row the newest
"""

import math
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

sys.dont_write_bytecode = True

from overview import overview
from report import Newest
from rows import ASYNC, CHANGE, LABELS, PAYLOAD_SIZES, PGBENCH, SCALE, SMALL, SYNC, TABLE, WRITE_UPS

STYLE = """
set encoding utf8
set border 3 linecolor rgb "#555555"
set tics nomirror out textcolor rgb "#333333"
set grid linecolor rgb "#dddddd" linetype 1
set key top left reverse Left samplen 2
set linetype 1 linecolor rgb "#27629b" linewidth 2 pointtype 7 pointsize 0.6
set linetype 2 linecolor rgb "#d9822b" linewidth 2 pointtype 5 pointsize 0.6
set linetype 3 linecolor rgb "#8fb4d6" linewidth 2 dashtype (8,6)
set linetype 4 linecolor rgb "#eec08a" linewidth 2 dashtype (8,6)
"""


def draw(path, size, script, heading):
    width, height = size
    preamble = (f'set terminal svg noenhanced size {width},{height} font "sans-serif,13" background "white"\n'
                f'set output "{path}"\n{STYLE}'
                f'set label "{heading}" at screen 0.99, screen 0.015 right font ",9" textcolor rgb "#888888"\n'
                "set bmargin 5\n")
    subprocess.run(["gnuplot"], input=preamble + script, text=True, check=True)


def times_as_fast(results, row, bar):
    """A latency's ratio turned round, so that longer is better in every bar; its limit likewise."""
    ratios = results.ratios(row, bar)
    limit = bar.at_least if bar.at_least is not None else bar.at_most
    if bar.metric in ("rate", "tps"):
        return ratios, limit
    return [1 / ratio for ratio in ratios], limit and 1 / limit


def ratios_plot(results, path):
    def label(row, bar):
        what = {"rate": row.name, "p50_us": f"{row.name} p50", "p99_us": f"{row.name} p99"}[bar.metric]
        case = f" of {bar.case}" if bar.case else ""
        ids = ", ids" if bar.ours.endswith("_ids") else ""
        return f"{what}{case}{ids}  /  {LABELS[bar.against].replace(', ids', '')}"

    # Ten times js_PublishAsync's small transaction would flatten all the other bars.
    bars = [(row, bar) for row in (ASYNC, SYNC, SMALL) for bar in row.bars
            if not (row is SMALL and bar.against == "async")]
    return bars_plot(results, path, bars, label, "Times as fast as plain C")


def change_plot(results, path):
    def label(row, bar):
        return f"{row.name}, {LABELS[bar.ours]}  /  {LABELS[bar.against]}"

    # Ten times an outbox whose relay keeps the order of one subject would flatten all the other bars.
    bars = [(row, bar) for row in (CHANGE, PGBENCH) for bar in row.bars if bar.against != "outbox_strict"]
    return bars_plot(results, path, bars, label, "Triggers: times as fast")


def bars_plot(results, path, bars, label, title):
    """One bar for each ratio that was measured."""
    lines = []
    longest = 0.0
    for row, bar in bars:
        if results.ratios(row, bar):
            fast, limit = times_as_fast(results, row, bar)
            longest = max(longest, *fast)
            values = [f"{value:.4g}" for value in (median(fast), min(fast), max(fast), limit or math.nan)]
            lines.append(f'{-len(lines)} {" ".join(values)} "{label(row, bar)}"')
    if not lines:
        return False
    draw(path, (860, 90 + 24 * len(lines)), f"""
$data << EOD
{chr(10).join(lines)}
EOD
set tmargin 3
set label "{title} (median and range of the rounds)" at screen 0.5, screen 0.95 center
set xrange [0:{1.12 * longest}]
set yrange [{0.6 - len(lines)}:0.6]
unset key
set grid x
set arrow from 1, graph 0 to 1, graph 1 nohead front dashtype 3 linecolor rgb "#555555"
set style fill solid
plot $data using (0):1:(0):2:($1-0.36):($1+0.36):yticlabels(6) with boxxyerror linecolor rgb "#8fb4d6", \\
     $data using 2:1:3:4 with xerrorbars pointtype 7 pointsize 0.3 linewidth 1 linecolor rgb "#27629b", \\
     $data using 5:($1-0.46):(0):(0.92) with vectors nohead linewidth 2.5 dashtype solid linecolor rgb "#c0392b", \\
     $data using 4:1:(sprintf("  %.2f", $2)) with labels left font ",11"
""", results.source(*dict(bars)) + "; red: the bar to reach")
    return True


def curve(results, row, side, metric, scale=1.0):
    """Lines "case median min max" of a side, by its cases."""
    lines = []
    for case in sorted({s.case for s in row.sides if s.name == side}, key=float):
        values = [value * scale for value in results.values(row, case, side, metric).values()]
        if values:
            lines.append(f"{case} {median(values):.6g} {min(values):.6g} {max(values):.6g}")
    return "\n".join(lines)


def curves_plot(results, path, row, metric, title, axes, scale=1.0, extra=""):
    """One curve for each side of a row, over its cases."""
    sides = [side for side in dict.fromkeys(s.name for s in row.sides) if curve(results, row, side, metric, scale)]
    if not sides:
        return False
    data = "".join(f"${side} << EOD\n{curve(results, row, side, metric, scale)}\nEOD\n" for side in sides)
    plots = [f'${side} using 1:2:3:4 with yerrorlines linetype {number} title "{LABELS[side]}"'
             for number, side in enumerate(sides, start=1)]
    draw(path, (760, 440), f"""{data}
set title "{title}"
set logscale x
set format x "%.0s%c"
{axes}
plot {", ".join(plots)}{extra}
""", results.source(row))
    return True


def table_plot(results, path):
    figures = "".join(f', x/{rate} linetype {number} title "write-ups, {side.split("_")[1]}: {rate:,.0f} messages/s"'
                      for number, (side, rate) in zip((3, 4), WRITE_UPS.items()))
    return curves_plot(results, path, TABLE, "ms", "One transaction, default settings, COMMIT included",
                       'set logscale y\nset xlabel "messages"\nset ylabel "seconds"\nset xrange [70:150000]\n'
                       'set format y "%g"', 0.001, figures)


def payload_plot(results, path):
    return curves_plot(results, path, PAYLOAD_SIZES, "mb_s", "Throughput by size of payload",
                       'set xlabel "bytes of payload"\nset ylabel "MB/s"\nset yrange [0:*]')


def scale_plot(results, path):
    return curves_plot(results, path, SCALE, "us", "Cost per message by size of transaction",
                       'set xlabel "messages in one transaction"\nset ylabel "µs per message"\nset yrange [0:*]\n'
                       'set key bottom left\nset xrange [700:15000000]')


PLOTS = {"overview": overview, "ratios": ratios_plot, "change": change_plot, "table": table_plot, "payload": payload_plot,
         "scale": scale_plot}


def draw_all(directory):
    """Names of the plots drawn; those whose rows were never measured are left as they are."""
    if not shutil.which("gnuplot"):
        return None
    plots = directory / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    results = Newest(directory / "results")
    return [name for name, plot in PLOTS.items() if plot(results, plots / f"{name}.svg")]


if __name__ == "__main__":
    print(", ".join(draw_all(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent) or []))
