"""The picture for a person in a hurry: how many messages a second, how late, and what it costs the transactions."""

from html import escape
from statistics import median

from rows import ASYNC, ON_COMMIT, PGBENCH, PGBENCH_WAL, RELAY, SYNC, WAL
from rows_others import CDC, CLIENTS, OUTBOXES

ROWS = (ASYNC, ON_COMMIT, PGBENCH, PGBENCH_WAL, RELAY, SYNC, WAL, CDC, CLIENTS, OUTBOXES)

PANEL_WIDTH = 296
GAP = 24
MARGIN = 20
ITEM_HEIGHT = 40
HEAD_HEIGHT = 70

# Readable wherever it is shown: it has its own background, and follows what the reader has chosen for the screen.
STYLE = """
.paper { fill: #ffffff } .ours { fill: #27629b } .others { fill: #9aa5b1 } .tail { fill: #8fb4d6 } .whole { fill: #e8ecf0 }
text { fill: #1f2933; font-family: sans-serif; font-size: 12px } .head { font-size: 15px; font-weight: bold }
.small { font-size: 11px; fill: #56606b }
@media (prefers-color-scheme: dark) {
.paper { fill: #0d1117 } .ours { fill: #58a6ff } .others { fill: #7d8590 } .tail { fill: #1f4b7d } .whole { fill: #21262d }
text { fill: #e6edf3 } .small { fill: #9aa5b1 }
}
"""


class Item:
    """A bar: its length, and the longer one behind it, in parts of the panel's width; what is said of it."""

    def __init__(self, label, ours, value, text, tail=None):
        self.label, self.ours, self.value, self.text, self.tail = label, ours, value, text, tail


def figure(results, row, side, metric):
    """None if it was not measured."""
    values = results.values(row, "", side, metric)
    return median(values.values()) if values else None


def rates(results):
    """The sides of the first question; both hands of a comparison are of one row, or of rows that ask the same."""
    wanted = (
        ("nats_publish_async(), one transaction", ASYNC, "ours_ids"),
        ("nats_publish_on_commit(), likewise", ON_COMMIT, "ours_ids"),
        ("plain C: js_PublishAsync", ASYNC, "async_msgid"),
        ("Go: nats.go, PublishAsync", CLIENTS, "go_async"),
        ("relay, from the outbox's table", RELAY, "pipelined_1"),
        ("relay, from the WAL", WAL, "wal_outbox"),
        ("an outbox with a relay in Node", OUTBOXES, "node_relay"),
        ("Node on pgoutput", CDC, "node_cdc"),
        ("nats_publish(), one by one", SYNC, "ours"),
        ("plain C: js_Publish, one by one", SYNC, "sync"),
    )
    found = [(label, is_ours(side), figure(results, row, side, "rate")) for label, row, side in wanted]
    found = [item for item in found if item[2]]
    most = max((rate for _, _, rate in found), default=1)
    return [Item(label, ours, rate / most, f"{rate:,.0f}") for label, ours, rate in found]


def is_ours(side):
    return not side.startswith(("async", "sync", "go_", "node_", "notify", "c_"))


def delays(results):
    wanted = (
        ("relay, from the outbox's table", RELAY, "delay"),
        ("relay, from the WAL", WAL, "wal_delay"),
        ("outbox, Node relay (10 ms)", OUTBOXES, "node_delay"),
        ("Node on pgoutput", CDC, "node_cdc_delay"),
    )
    found = [(label, is_ours(side), figure(results, row, side, "p50_us"), figure(results, row, side, "p99_us"))
             for label, row, side in wanted]
    found = [item for item in found if item[2]]
    longest = max((p99 for *_, p99 in found), default=1)
    at_once = Item("what is published by COMMIT's end", True, 0, "0")
    return [at_once] + [Item(label, ours, p50 / longest, f"{p50 / 1000:.2f} to {p99 / 1000:.2f} ms", p99 / longest)
                        for label, ours, p50, p99 in found]


def costs(results):
    wanted = (
        ("a published table, delivery wal", PGBENCH_WAL, "tpcb_changes"),
        ("nats_publish_outbox(), in the WAL", PGBENCH_WAL, "tpcb_outbox"),
        ("a published table, delivery on_commit", PGBENCH, "table_on_commit"),
        ("a published table, delivery outbox", PGBENCH, "table_outbox"),
        ("a trigger with pg_notify()", PGBENCH, "notify"),
        ("no trigger, plain C publishes beside", PGBENCH, "c_beside"),
    )
    return [Item(label, is_ours(side), kept, f"{kept:.0%}", 1.0)
            for label, row, side in wanted if (kept := kept_of(results, row, side)) is not None]


def kept_of(results, row, side):
    """The median, over the rounds, of a side's transactions by those without messages."""
    without = results.values(row, "", "no_trigger", "tps")
    ratios = [tps / without[number] for number, tps in results.values(row, "", side, "tps").items() if without.get(number)]
    return median(ratios) if ratios else None


PANELS = (
    ("How many messages a second?", "of 128 bytes, until all are in the stream", rates, "tail"),
    ("How late?", "from COMMIT's answer to a subscriber: median, and 99 %", delays, "tail"),
    ("What does it cost my transactions?", "pgbench with a message each: what is left of its rate", costs, "whole"),
)


def bar(x, y, width, kind):
    return f'<rect x="{x:.1f}" y="{y}" width="{max(width, 2):.1f}" height="12" rx="2" class="{kind}"/>'


def text(x, y, words, kind="", anchor="start"):
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def panel(x, title, remark, items, behind):
    lines = [text(x, 30, title, "head"), text(x, 48, remark, "small")]
    for number, item in enumerate(items):
        y = HEAD_HEIGHT + number * ITEM_HEIGHT
        lines += [text(x, y + 8, item.label), text(x + PANEL_WIDTH, y + 8, item.text, anchor="end")]
        if item.tail is not None:
            lines.append(bar(x, y + 14, PANEL_WIDTH * item.tail, behind if item.ours or behind == "whole" else "whole"))
        lines.append(bar(x, y + 14, PANEL_WIDTH * item.value, "ours" if item.ours else "others"))
    return lines


def overview(results, path):
    """Draws it if there is something in each panel."""
    panels = [(title, remark, items(results), behind) for title, remark, items, behind in PANELS]
    if any(len(items) < 2 for _, _, items, _ in panels):
        return False
    height = HEAD_HEIGHT + max(len(items) for _, _, items, _ in panels) * ITEM_HEIGHT + 24
    width = 2 * MARGIN + 3 * PANEL_WIDTH + 2 * GAP
    lines = [line for number, what in enumerate(panels) for line in panel(MARGIN + number * (PANEL_WIDTH + GAP), *what)]
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
                    f"<style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" class=\"paper\"/>\n" + "\n".join(lines) + "\n"
                    + text(width - MARGIN, height - 10, f"blue: nats_publish. {results.source(*ROWS)}", "small", "end")
                    + "\n</svg>\n")
    return True
