"""The samples of a benchmark: kept as TSV, and reported as Markdown tables.

A sample is (row, case, side, round, metric, value). Everything reported is computed from the samples in the file.
"""

import os
from collections import defaultdict
from datetime import date
from statistics import median

from every_row import ROWS
from rows import LABELS

DOCUMENTED = "*_pg15.*_libnats3.4.*_server2.9.*.tsv"
COLUMNS = ("row", "case", "side", "round", "metric", "value")

METRICS = {
    "rate": "messages/s", "mb_s": "MB/s", "ms": "ms", "stored_ms": "ms until all are stored", "us": "µs/message", "call_us": "µs/call",
    "peak_kb": "peak of RSS, kB", "peak_mb": "most memory of its own, MB",
    "cpu_us": "CPU µs/message", "csw": "switches/message",
    "commit_us": "p50 of COMMIT, µs", "wal_mb": "WAL, MB/min", "wal_retried_mb": "WAL after hours, MB/min",
    "commit_us_ratio": "p50 of COMMIT, of that without", "p50_us_ratio": "p50, of that without",
    "cpu_us_ratio": "CPU, of that without", "rate_ratio": "messages/s, of those without",
    "row_us": "µs/row", "added_us": "µs/row added", "row_cpu_us": "backend's CPU µs/row",
    "tps": "transactions/s", "seconds": "seconds measured",
    "p50_us": "p50 µs", "p99_us": "p99 µs", "max_us": "max µs",
    "pss_first_kb": "PSS after the 1st, kB", "pss_held_kb": "PSS before COMMIT, kB",
    "pss_after_kb": "PSS after COMMIT, kB", "rss_after_kb": "RSS after COMMIT, kB", "threads": "threads",
    "first_us": "first, p50 µs", "pss_kb": "PSS, kB", "server_mb": "nats-server's RSS, MB",
    "server_cpu_us": "nats-server's CPU µs/message",
    "spread": "cost at the dearest count / at the cheapest",
}


def machine():
    cpu = "unknown CPU"
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {cpu}, {memory:.0f} GiB"


class Samples:
    """(row, case, side, round, metric, value) of several rounds."""

    _samples = ()

    def values(self, row, case, side, metric):
        """{round: value}"""
        return {number: value for name, at, who, number, what, value in self._samples
                if (name, at, who, what) == (row.name, case, side, metric)}

    def ratios(self, row, bar):
        """What a bar is about, in each round."""
        ours = self.values(row, bar.case, bar.ours, bar.metric)
        if bar.against is None:
            return list(ours.values())
        if isinstance(bar.against, float):
            return [value / bar.against for value in ours.values()]
        theirs = self.values(row, bar.case, bar.against, bar.metric)
        return [value / theirs[number] for number, value in ours.items() if theirs.get(number)]


class Newest(Samples):
    """Of each row those that were measured last, of the files in a directory that are of the same versions."""

    def __init__(self, directory):
        files = sorted(directory.glob("*.tsv"))
        # What Debian 12 has, for that is what the documents tell; others where there is nothing else.
        files = sorted(directory.glob(DOCUMENTED)) or [file for file in files if versions_of(file) == versions_of(files[-1])]
        self._file = {sample[0]: file for file in files for sample in load(file)}
        self._samples = [sample for file in files for sample in load(file) if self._file[sample[0]] == file]

    def source(self, *rows):
        """When those of them that there are were measured, and with what."""
        files = sorted({self._file[row.name] for row in rows if row.name in self._file})
        days = dict.fromkeys(file.name.partition("_")[0] for file in (files[0], files[-1]))
        with open(files[-1]) as last:
            return f"{' to '.join(days)}: {last.readline().partition(': ')[2].strip()}"


def versions_of(file):
    return file.name.partition("_")[2]


def load(file):
    lines = [line.split("\t") for line in file.read_text().splitlines() if not line.startswith("#")]
    return [(row, case, side, int(number), metric, float(value)) for row, case, side, number, metric, value in lines[1:]]


class Results(Samples):
    """The samples of one day and one set of versions; a run replaces the rows it measured."""

    def __init__(self, directory, bench, remark=""):
        versions = (bench.cluster.version, bench.libnats, bench.nats.version)
        self.heading = "{}: PostgreSQL {}, libnats {}, nats-server {}; {}{}".format(
            date.today().isoformat(), *versions, machine(), remark)
        name = "{}_pg{}_libnats{}_server{}".format(date.today().isoformat(), *versions)
        directory.mkdir(parents=True, exist_ok=True)
        self.tsv = directory / f"{name}.tsv"
        self._markdown = directory / f"{name}.md"
        self._samples = load(self.tsv) if self.tsv.exists() else []

    def replace(self, row, rounds):
        """rounds: for each round {(case, side): {metric: value}}"""
        self._samples = [sample for sample in self._samples if sample[0] != row.name]
        self._samples += [(row.name, case, side, number, metric, float(value))
                          for number, results in enumerate(rounds, start=1)
                          for (case, side), metrics in results.items()
                          for metric, value in metrics.items() if not isinstance(value, str)]
        with open(self.tsv, "w") as tsv:
            tsv.write(f"# {self.heading}\n" + "\t".join(COLUMNS) + "\n")
            tsv.writelines("\t".join((*sample[:3], str(sample[3]), sample[4], f"{sample[5]:.6g}")) + "\n"
                           for sample in self._samples)
        self._markdown.write_text("\n".join([self.heading + "\n", *map(self.table, self.rows())]))

    def rows(self):
        measured = {sample[0] for sample in self._samples}
        return [row for row in ROWS if row.name in measured]

    def table(self, row):
        """The Markdown of one row: what each side reached, then the ratios beside their bars."""
        found = defaultdict(lambda: defaultdict(list))
        for name, case, side, _, metric, value in self._samples:
            if name == row.name and metric in row.metrics:
                found[case, side][metric].append(value)
        cases = list(dict.fromkeys(case for case, _ in found))
        found = dict(sorted(found.items(), key=lambda item: cases.index(item[0][0])))
        rounds = len({sample[3] for sample in self._samples if sample[0] == row.name})

        head = ["side", *(METRICS[metric] for metric in row.metrics)]
        body = [[LABELS[side], *(spread(metrics[metric]) for metric in row.metrics)]
                for (_, side), metrics in found.items()]
        if any(cases):
            head.insert(0, "of")
            body = [[f"{int(case):,}", *line] for (case, _), line in zip(found, body)]
        return (f"### {row.name}: {row.title}\n\n"
                f"Median (min – max) of {rounds} round{'s' if rounds > 1 else ''}.\n\n"
                f"{markdown(head, body)}\n{self._bars(row)}")

    def _bars(self, row):
        lines = []
        for bar in row.bars:
            values = self.ratios(row, bar)
            if values:
                lines.append([bar_text(bar), spread(values), *verdict(bar, median(values))])
        return markdown(["paired ratio, or figure", "median (min – max)", "bar", ""], lines) + "\n" if lines else ""


def bar_text(bar):
    text = METRICS[bar.metric] + (f" of {int(bar.case):,}" if bar.case else "") + f": {LABELS[bar.ours]}"
    if isinstance(bar.against, float):
        return f"{text} / the write-ups' {bar.against:,.0f}"
    return f"{text} / {LABELS[bar.against]}" if bar.against else text


def verdict(bar, value):
    """The bar, and whether it was reached."""
    if bar.met(value) is None:
        return "", ""
    limit = f"≥ {bar.at_least:,}" if bar.at_least is not None else f"≤ {bar.at_most:,}"
    return limit, "met" if bar.met(value) else "**missed**"


def spread(values):
    """Median and range, in three digits or so."""
    if not values:
        return ""
    whole = all(value == int(value) for value in values)

    def text(value):
        digits = 0 if whole or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
        return f"{value:,.{digits}f}"

    return f"{text(median(values))} ({text(min(values))} – {text(max(values))})"


def markdown(head, body):
    """A table that reads well as plain text too."""
    widths = [max(map(len, column)) for column in zip(head, *body)]

    def line(cells):
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, body)]) + "\n"
