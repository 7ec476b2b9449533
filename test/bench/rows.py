"""What is measured: one Row for each question, its sides, and the bars it should reach.

A side publishes through the extension or through plain C, and returns its metrics. The driver runs the sides
of a row one after the other, in another order each round. To add a row, add it to ROWS at the end.
"""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Callable, Optional, Union

from workbench import Failure, NatsClient, Peak, wait_for

PAYLOAD = 128

# What the tables call the sides.
LABELS = {
    "ours": "nats_publish, no ids",
    "ours_ids": "nats_publish, ids",
    "sync": "js_Publish",
    "async": "js_PublishAsync",
    "async_msgid": "js_PublishAsync + MsgId",
    "evloop": "plain-C event loop",
    "evloop_hdr": "plain-C event loop, ids",
    "evloop_hdr_100": "plain-C event loop, ids, 100 subjects",
    "evloop_hdr_10000": "plain-C event loop, ids, 10,000 subjects",
    "ours_sync": "nats_publish()",
    "ours_async": "nats_publish_async()",
    "client": "client, with messages",
    "client_noop": "client, without",
    "client_added": "client, added by the messages",
    "spread": "nats_publish, no ids",
    "spread_ids": "nats_publish, ids",
    "c_beside": "no trigger, plain-C publishers beside",
    "spread_c": "plain-C event loop",
    "spread_c_ids": "plain-C event loop, ids",
    "insert": "no trigger",
    "outbox": "plpgsql outbox trigger",
    "level_row": "level row, no ids",
    "level_statement": "level statement, no ids",
    "level_row_ids": "level row, ids",
    "level_statement_ids": "level statement, ids",
    "no_trigger": "no trigger",
    "notify": "pg_notify trigger",
    "table_on_commit": "delivery on_commit",
    "table_async": "delivery async",
    "table_large_batch": "delivery on_commit, large chunks",
    "table_outbox": "delivery outbox",
    "outbox_relaxed": "plpgsql outbox trigger, relay relaxed",
    "outbox_strict": "plpgsql outbox trigger, relay strict",
    "relaxed": "relay, relaxed",
    "strict_1": "relay, strict, 1 subject",
    "strict_100": "relay, strict, 100 subjects",
    "strict_10000": "relay, strict, 10,000 subjects",
    "wal_changes": "changes from the WAL, 1000 a transaction",
    "wal_changes_one": "changes from the WAL, one transaction",
    "wal_outbox": "outbox in the WAL, 1000 a transaction",
    "wal_outbox_one": "outbox in the WAL, one transaction",
    "wal_changes_one_kept": "changes from the WAL, one transaction, kept in memory",
    "wal_outbox_one_kept": "outbox in the WAL, one transaction, kept in memory",
    "evloop_change": "plain-C event loop, ids, size of a change",
    "wal_delay": "relay of the WAL, from the answer to COMMIT",
    "call_table": "nats_publish_outbox(), in the table",
    "call_wal": "nats_publish_outbox(), in the WAL",
    "tpcb_changes": "delivery wal on pgbench_history",
    "tpcb_outbox": "delivery outbox, in the WAL",
    "pipelined_1": "relay, pipelined, 1 subject",
    "pipelined_100": "relay, pipelined, 100 subjects",
    "pipelined_10000": "relay, pipelined, 10,000 subjects",
    "delay": "relay, from the answer to COMMIT",
    "delay_sent": "relay, from the sending of COMMIT",
    "dead": "dead rows under an old snapshot",
    "waiting": "rows waiting for a missing stream",
    "held": "rows behind others that wait for one",
    "writer": "messages behind an open transaction",
}


@dataclass(frozen=True)
class Side:
    name: str
    run: Callable            # (bench) -> {metric: value}
    case: str = ""           # a row may ask the same of several sizes


@dataclass(frozen=True)
class Bar:
    """A metric of our side divided by another side's in the same round, by a fixed figure, or by nothing."""
    metric: str
    ours: str
    against: Union[str, float, None] = None
    at_least: Optional[float] = None
    at_most: Optional[float] = None
    case: str = ""

    def met(self, value):
        """None when there is nothing to reach: the figure is only reported."""
        if self.at_least is not None:
            return value >= self.at_least
        if self.at_most is not None:
            return value <= self.at_most
        return None


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    metrics: tuple           # what the table shows
    sides: tuple
    bars: tuple = ()
    derive: Callable = field(default=lambda results: {})   # of one round: {(case, side): {metric: value}}
    place: Callable = nullcontext    # (bench) -> what its sides run in: other servers
    turns: int = 1           # short rounds in place of each long one, where it matters on which core a process runs


def settings(ids):
    return {"auto_msg_id": "on" if ids else "off"}


def select(function, count, size=PAYLOAD, subject="bench.a"):
    return f"SELECT count({function}('{subject}', repeat('x', {size}))) FROM generate_series(1, {count});"


def connect(session):
    """The baseline's clock starts after it has connected, and so must ours."""
    session.run("SELECT nats_publish('bench.connect', ''::text);")


def plain_c(mode, count, case="", **keys):
    return Side(mode, lambda bench: bench.baseline(mode, count=bench.scaled(count), **{"size": PAYLOAD, **keys}), case)


def transaction(function, wanted, ids=False, size=PAYLOAD, **others):
    """`wanted` messages in one transaction; the time is the client's, from BEGIN to the answer to COMMIT. others: settings."""
    def run(bench):
        count = bench.scaled(wanted)
        bench.new_stream()
        with bench.session(**settings(ids), **others) as session:
            connect(session)
            cpu, switches = session.usage()
            ms = session.milliseconds(f"BEGIN;\n{select(function, count, size)}\nCOMMIT;")
            cpu_after, switches_after = session.usage()
        bench.check_stored(count + 1)
        return {"rate": count / ms * 1000, "ms": ms, "cpu_us": (cpu_after - cpu) / count,
                "csw": (switches_after - switches) / count}
    return run


def in_backend(query, count, ids=False):
    """A query or CALL that times itself and gives a bench.timing."""
    def run(bench):
        bench.new_stream()
        with bench.session(**settings(ids)) as session:
            connect(session)
            timing = session.row(query(bench))
        bench.check_stored(count(bench) + 1)
        return dict(zip(("rate", "p50_us", "p99_us", "max_us"), timing))
    return run


# ---- async, cpu: many messages in one transaction -----------------------------

MANY = 100_000


def many_sides():
    return (
        Side("ours", transaction("nats_publish_async", MANY)),
        plain_c("async", MANY),
        plain_c("evloop", MANY),
        Side("ours_ids", transaction("nats_publish_async", MANY, ids=True)),
        plain_c("async_msgid", MANY),
        plain_c("evloop_hdr", MANY),
    )


ASYNC = Row(
    "async", "nats_publish_async: 100,000 messages in one transaction, COMMIT included",
    ("rate",), many_sides(),
    (Bar("rate", "ours", "async", at_least=1.2),
     Bar("rate", "ours_ids", "async_msgid", at_least=1.0),
     Bar("rate", "ours", "evloop", at_least=0.95),
     Bar("rate", "ours_ids", "evloop_hdr", at_least=0.9)))

ON_COMMIT = Row(
    "on_commit", "nats_publish_on_commit: 100,000 messages held by one transaction, COMMIT included",
    ("rate",), (
        Side("ours", transaction("nats_publish_on_commit", MANY)),
        plain_c("async", MANY),
        Side("ours_ids", transaction("nats_publish_on_commit", MANY, ids=True)),
        plain_c("async_msgid", MANY),
    ),
    (Bar("rate", "ours", "async", at_least=1.1),
     Bar("rate", "ours_ids", "async_msgid")))

CPU = Row(
    "cpu", "CPU and voluntary context switches per message, all threads: 100,000 in one transaction",
    ("cpu_us", "csw"), many_sides(),
    (Bar("cpu_us", "ours", "async", at_most=1.0),
     Bar("cpu_us", "ours_ids", "async_msgid", at_most=1.0),
     Bar("cpu_us", "ours", "evloop"),
     Bar("cpu_us", "ours_ids", "evloop_hdr")))


# ---- sync: one round trip each --------------------------------------------------

ONE_BY_ONE = 20_000

SYNC = Row(
    "sync", "nats_publish: 20,000 messages, each waited for",
    ("rate", "p50_us", "p99_us"),
    (Side("ours", in_backend(
        lambda bench: f"SELECT * FROM bench.sync({bench.scaled(ONE_BY_ONE)}, repeat('x', {PAYLOAD}))",
        lambda bench: bench.scaled(ONE_BY_ONE))),
     plain_c("sync", ONE_BY_ONE, latency="call")),
    (Bar("rate", "ours", "sync", at_least=1.2),
     Bar("p50_us", "ours", "sync"),
     Bar("p99_us", "ours", "sync")))


# ---- small: transactions of a few messages -----------------------------------------

TRANSACTIONS = {1: 500, 10: 500, 100: 125}


def small_ours(messages, ids):
    def transactions(bench):
        return bench.scaled(TRANSACTIONS[messages])
    return in_backend(
        lambda bench: f"CALL bench.commits({transactions(bench)}, {messages}, repeat('x', {PAYLOAD}))",
        lambda bench: transactions(bench) * messages, ids)


def small_plain_c(mode, messages):
    def run(bench):
        count = bench.scaled(TRANSACTIONS[messages]) * messages
        return bench.baseline(mode, count=count, batch=messages, size=PAYLOAD)
    return Side(mode, run, str(messages))


def small_client(messages, statement):
    """As the client sees it, with pgbench: three statements, each a round trip."""
    def run(bench):
        bench.new_stream()
        us = bench.pgbench(f"BEGIN;\n{statement}\nCOMMIT;\n", bench.scaled(TRANSACTIONS[messages]), **settings(False))
        if "nats_publish" in statement:
            bench.check_stored(len(us) * messages)
        return {"p50_us": us[len(us) // 2], "p99_us": us[int(len(us) * 0.99)]}
    return run


def small_sides(messages):
    case = str(messages)
    noop = f"SELECT count(clock_timestamp()) FROM generate_series(1, {messages});"
    return (
        Side("ours", small_ours(messages, ids=False), case),
        small_plain_c("evloop", messages),
        Side("ours_ids", small_ours(messages, ids=True), case),
        small_plain_c("evloop_hdr", messages),
        small_plain_c("async", messages),
        Side("client", small_client(messages, select("nats_publish_async", messages)), case),
        Side("client_noop", small_client(messages, noop), case),
    )


def small_added(results):
    return {(case, "client_added"): {"p50_us": metrics["p50_us"] - results[case, "client_noop"]["p50_us"]}
            for (case, side), metrics in results.items() if side == "client"}


SMALL = Row(
    "small", "Small transactions of 1, 10, 100 messages: from the first send to the end of the drain",
    ("p50_us", "p99_us"),
    tuple(side for messages in TRANSACTIONS for side in small_sides(messages)),
    tuple(bar for case in map(str, TRANSACTIONS) for bar in (
        Bar("p50_us", "ours", "evloop", at_most=1.2, case=case),
        Bar("p50_us", "ours_ids", "evloop_hdr", case=case),
        Bar("p50_us", "ours", "async", case=case))),
    small_added, turns=4)


# ---- calls: how long one call keeps its caller -----------------------------------------

CALLS = 50_000
CALL_SUBJECTS = 5


def calls_ours(ids):
    subjects = ",".join(f"bench.{letter}" for letter in "abcde"[:CALL_SUBJECTS])
    return in_backend(
        lambda bench: f"SELECT * FROM bench.async({bench.scaled(CALLS)}, '{{{subjects}}}', repeat('x', {PAYLOAD}))",
        lambda bench: bench.scaled(CALLS), ids)


CALL_TIMES = Row(
    "calls", "One nats_publish_async call, while 10,000 messages go to each of 5 subjects, the window filling",
    ("p50_us", "p99_us", "max_us"),
    (Side("ours", calls_ours(ids=False)),
     plain_c("async", CALLS, subjects=CALL_SUBJECTS, latency="call"),
     plain_c("evloop", CALLS, subjects=CALL_SUBJECTS, latency="call"),
     Side("ours_ids", calls_ours(ids=True))),
    (Bar("max_us", "ours", at_most=2000),
     Bar("max_us", "ours_ids", at_most=2000),
     Bar("p50_us", "ours", "async"),
     Bar("p99_us", "ours", "async"),
     Bar("max_us", "ours", "async")))


# ---- table: the counts that write-ups give ------------------------------------------------

TABLE_COUNTS = (100, 1_000, 10_000, 100_000)
# Messages per second that published accounts of NATS publishers report.
WRITE_UPS = {"ours_async": 10_000.0, "ours_sync": 1_000.0}

TABLE = Row(
    "table", "100 to 100,000 messages in one transaction, with the default settings",
    ("rate", "ms"),
    tuple(side for count in TABLE_COUNTS for side in (
        Side("ours_async", transaction("nats_publish_async", count, ids=True), str(count)),
        Side("ours_sync", transaction("nats_publish", count, ids=True), str(count)))),
    tuple(Bar("rate", side, figure, case=str(count))
          for side, figure in WRITE_UPS.items() for count in TABLE_COUNTS))


# ---- scale: cost per message and memory, by the size of the transaction ------------------------

SCALE_COUNTS = (1_000, 10_000, 100_000, 1_000_000)
# The server keeps every id for two minutes, so this many go without.
SCALE_LARGEST = 10_000_000
# A few milliseconds are over before the server's pace has settled: the median of several small transactions counts.
SCALE_SETTLED = 100_000


def scale_repeats(count):
    return max(1, min(25, SCALE_SETTLED // count))


def scale_run(wanted, ids):
    """The time is what the messages add to a transaction that only counts."""
    def run(bench):
        count = bench.scaled(wanted)
        # A set-returning function in the select list streams; in FROM, its rows are kept in the backend's memory.
        series = f"FROM (SELECT generate_series(1, {count})) AS i"
        bench.new_stream()
        with bench.session(**settings(ids)) as session:
            counting = f"BEGIN;\nSELECT count(clock_timestamp()) {series};"
            session.run(f"{counting}\nCOMMIT;")
            counting_ms = median(session.milliseconds(counting) + session.milliseconds("COMMIT;")
                                 for _ in range(scale_repeats(count)))
            fresh = session.memory()
            session.run(f"SELECT nats_publish_async('bench.connect', repeat('x', {PAYLOAD}));")
            first = session.memory()
            cpu, _ = session.usage()
            times = []
            for _ in range(scale_repeats(count)):
                ms = session.milliseconds(
                    f"BEGIN;\nSELECT count(nats_publish_async('bench.a', repeat('x', {PAYLOAD}))) {series};")
                held = session.memory()
                times.append(ms + session.milliseconds("COMMIT;"))
            cpu_after, _ = session.usage()
            after = session.memory()
        bench.check_stored(count * len(times) + 1)
        return {"us": (median(times) - counting_ms) * 1000 / count, "cpu_us": (cpu_after - cpu) / count / len(times),
                "pss_first_kb": first["pss_kb"] - fresh["pss_kb"], "pss_held_kb": held["pss_kb"] - fresh["pss_kb"],
                "pss_after_kb": after["pss_kb"] - fresh["pss_kb"], "rss_after_kb": after["rss_kb"] - fresh["rss_kb"],
                "threads": after["threads"] - fresh["threads"]}
    return run


def scale_plain_c(mode, wanted):
    def run(bench):
        count = bench.scaled(wanted)
        figures = bench.baseline(mode, count=count * scale_repeats(count), batch=count, size=PAYLOAD)
        return {"us": figures["p50_us"] / count, "cpu_us": figures["cpu_us"]}
    return Side(mode, run, str(wanted))


def scale_spread(results):
    """The cost at the dearest count divided by that at the cheapest."""
    spreads = {}
    for side, name in (("ours", "spread"), ("ours_ids", "spread_ids"), ("evloop", "spread_c"), ("evloop_hdr", "spread_c_ids")):
        costs = [metrics["us"] for (_, measured), metrics in results.items() if measured == side]
        spreads["", name] = {"spread": max(costs) / min(costs)}
    return spreads


SCALE = Row(
    "scale", "Cost per message by the size of the transaction, and what the backend's memory grows by",
    ("us", "cpu_us", "pss_first_kb", "pss_held_kb", "pss_after_kb", "rss_after_kb", "threads"),
    tuple(Side("ours_ids" if ids else "ours", scale_run(count, ids), str(count))
          for count in SCALE_COUNTS for ids in (False, True)) +
    tuple(scale_plain_c(mode, count) for count in SCALE_COUNTS for mode in ("evloop", "evloop_hdr")) +
    (Side("ours", scale_run(SCALE_LARGEST, False), str(SCALE_LARGEST)),),
    (Bar("spread", "spread", at_most=1.2),
     Bar("spread", "spread_ids", at_most=1.2),
     Bar("spread", "spread_c"),
     Bar("spread", "spread_c_ids"),
     Bar("pss_first_kb", "ours_ids", at_most=1024, case="100000"),
     Bar("pss_after_kb", "ours_ids", at_most=4096, case="100000")),
    scale_spread)


# ---- backends: many of them, each with its connection ---------------------------------------------

BACKENDS = (1, 8, 64, 256)
BACKENDS_MESSAGES = 256_000         # by all of them together


def mean_growth(metric, before, after):
    return sum(now[metric] - then[metric] for then, now in zip(before, after)) / len(before)


def backends_run(count):
    def run(bench):
        each = max(bench.scaled(BACKENDS_MESSAGES) // count, 1)
        transaction_of_each = f"BEGIN;\n{select('nats_publish_async', each)}\nCOMMIT;"
        bench.new_stream()
        with ExitStack() as stack:
            sessions = [stack.enter_context(bench.session(**settings(True))) for _ in range(count)]
            for session in sessions:
                session.run("SELECT count(clock_timestamp()) FROM (SELECT generate_series(1, 1000)) AS i;")
            fresh = [session.memory() for session in sessions]
            for session in sessions:
                connect(session)
            first = [session.memory() for session in sessions]
            pool = stack.enter_context(ThreadPoolExecutor(count))
            started = time.monotonic()
            list(pool.map(lambda session: session.run(transaction_of_each), sessions))
            seconds = time.monotonic() - started
            after = [session.memory() for session in sessions]
        bench.check_stored((each + 1) * count)
        return {"rate": each * count / seconds, "pss_first_kb": mean_growth("pss_kb", fresh, first),
                "pss_after_kb": mean_growth("pss_kb", fresh, after), "threads": mean_growth("threads", fresh, after)}
    return Side("ours_ids", run, str(count))


BACKENDS_ROW = Row(
    "backends", f"{BACKENDS_MESSAGES:,} messages by several backends at once, in one transaction of each; "
    "what a backend's memory grows by",
    ("rate", "pss_first_kb", "pss_after_kb", "threads"),
    tuple(backends_run(count) for count in BACKENDS),
    tuple(bar for count in map(str, BACKENDS) for bar in (
        Bar("pss_first_kb", "ours_ids", at_most=1024, case=count),
        Bar("pss_after_kb", "ours_ids", at_most=4096, case=count))))


# ---- held: ten million messages held for one commit ------------------------------------------

HELD = 10_000_000


def held_run(bench):
    count = bench.scaled(HELD)
    bench.new_stream()
    with bench.session(**settings(True)) as session:
        connect(session)
        fresh = session.memory()
        publish_ms = session.milliseconds(
            f"BEGIN;\nSELECT count(nats_publish_on_commit('bench.a', repeat('x', {PAYLOAD}))) "
            f"FROM (SELECT generate_series(1, {count})) AS i;")
        commit_ms = session.milliseconds("COMMIT;")
        after = session.memory()
    bench.check_stored(count + 1)
    return {"us": (publish_ms + commit_ms) * 1000 / count, "call_us": publish_ms * 1000 / count,
            "peak_kb": after["peak_kb"] - fresh["rss_kb"]}


HELD_ROW = Row(
    "held", "nats_publish_on_commit: 10,000,000 messages held by one transaction, work_mem 4 MB",
    ("us", "call_us", "peak_kb"), (Side("ours_ids", held_run),),
    (Bar("peak_kb", "ours_ids", at_most=68 * 1024),))


# ---- payload: from small to the server's limit -----------------------------------------

# The last is what nats-server takes at most.
PAYLOADS = (16, 128, 1_024, 8_192, 65_536, 262_144, 1_048_576)
PAYLOAD_BYTES = 64_000_000           # sent by each run, as far as
PAYLOAD_MESSAGES = 50_000            # this many suffice
PENDING_BYTES = 64 * 1024 * 1024     # the default of nats_publish.max_pending_bytes


def payload_count(size):
    return min(PAYLOAD_MESSAGES, PAYLOAD_BYTES // size)


def with_mb_s(size, run):
    def measured(bench):
        metrics = run(bench)
        return {**metrics, "mb_s": metrics["rate"] * size / 1e6}
    return measured


def payload_sides(size):
    plain = plain_c("evloop", payload_count(size), size=size, window=min(4096, PENDING_BYTES // size))
    return (Side("ours", with_mb_s(size, transaction("nats_publish_async", payload_count(size), size=size)), str(size)),
            Side("evloop", with_mb_s(size, plain.run), str(size)))


PAYLOAD_SIZES = Row(
    "payload", "Payloads of 16 bytes to 1 MB: bytes of payload per second, by size",
    ("mb_s", "rate"),
    tuple(side for size in PAYLOADS for side in payload_sides(size)),
    tuple(Bar("mb_s", "ours", "evloop", case=str(size)) for size in PAYLOADS))


# ---- change: what a trigger adds to an INSERT ---------------------------------------------------

def insert(rows):
    return ("INSERT INTO bench.published SELECT i, i % 1000, rpad('order ' || i, 60, ' of something'), i / 100.0, "
            f"now() FROM generate_series(1, {rows}) AS i;")


def change(trigger="", ids=False):
    """One INSERT of many rows into a new table, with a trigger or without one."""
    def run(bench):
        count = bench.scaled(MANY)
        bench.new_stream()
        with bench.session(**settings(ids)) as session:
            session.run("DROP TABLE IF EXISTS bench.published;\n"
                        "CREATE TABLE bench.published (LIKE bench.orders INCLUDING ALL);\n"
                        f"{trigger}\nTRUNCATE bench.outbox;\nCHECKPOINT;")
            connect(session)
            cpu, _ = session.usage()
            ms = session.milliseconds(f"BEGIN;\n{insert(count)}\nCOMMIT;")
            cpu_after, _ = session.usage()
            in_outbox = int(session.value("SELECT count(*) FROM bench.outbox"))
        bench.check_stored(count + 1 if "nats_publish_table" in trigger else 1)
        if in_outbox != (count if "to_outbox" in trigger else 0):
            raise Failure(f"the outbox holds {in_outbox} rows")
        metrics = {"ms": ms, "row_us": ms * 1000 / count, "row_cpu_us": (cpu_after - cpu) / count}
        # When COMMIT has returned, all are stored.
        return {**metrics, "stored_ms": ms} if "nats_publish_table" in trigger else metrics
    return run


def published(level, ids):
    return change(f"SELECT nats_publish_table('bench.published', 'bench.{{table}}.{{op}}', level => '{level}');", ids)


def change_relayed(ordering):
    """The same with the trigger that people write for an outbox, and our relay; the last message is waited for."""
    def run(bench):
        count = bench.scaled(MANY)
        bench.new_stream()
        with bench.relay(ordering=ordering) as relay:
            session = relay.session
            session.run("DROP TABLE IF EXISTS bench.published;\n"
                        "CREATE TABLE bench.published (LIKE bench.orders INCLUDING ALL);\n"
                        "CREATE TRIGGER outbox AFTER INSERT ON bench.published "
                        "FOR EACH ROW EXECUTE FUNCTION bench.to_nats_outbox();\nCHECKPOINT;")
            cpu, _ = session.usage()
            started = time.monotonic()
            ms = session.milliseconds(f"BEGIN;\n{insert(count)}\nCOMMIT;")
            cpu_after, _ = session.usage()
            bench.wait_until_stored(count)
            stored_ms = (time.monotonic() - started) * 1000
            relay.wait_for_state("idle")
        bench.check_stored(count)
        return {"ms": ms, "row_us": ms * 1000 / count, "row_cpu_us": (cpu_after - cpu) / count, "stored_ms": stored_ms}
    return run


def change_added(results):
    """What each trigger costs, beyond the INSERT itself."""
    plain = results["", "insert"]["row_us"]
    return {key: {**metrics, "added_us": metrics["row_us"] - plain}
            for key, metrics in results.items() if key != ("", "insert")}


CHANGE = Row(
    "change", "INSERT of 100,000 rows, one message each by nats_publish_table (delivery on_commit), COMMIT included; "
    "fsync and synchronous_commit on",
    ("ms", "row_us", "added_us", "row_cpu_us", "stored_ms"), (
        Side("insert", change()),
        Side("outbox", change("CREATE TRIGGER outbox AFTER INSERT ON bench.published "
                              "FOR EACH ROW EXECUTE FUNCTION bench.to_outbox();")),
        Side("level_row", published("row", ids=False)),
        Side("level_statement", published("statement", ids=False)),
        Side("level_row_ids", published("row", ids=True)),
        Side("level_statement_ids", published("statement", ids=True)),
        Side("outbox_relaxed", change_relayed("relaxed")),
        Side("outbox_strict", change_relayed("strict")),
    ),
    (Bar("row_us", "level_row", "outbox", at_most=1.0),
     Bar("row_us", "level_statement", "outbox", at_most=1.0),
     Bar("row_us", "level_row_ids", "outbox", at_most=1.2),
     Bar("row_us", "level_statement_ids", "outbox", at_most=1.2),
     Bar("stored_ms", "level_row_ids", "outbox_relaxed"),
     Bar("stored_ms", "level_statement_ids", "outbox_relaxed"),
     Bar("stored_ms", "level_row_ids", "outbox_strict"),
     Bar("stored_ms", "level_statement_ids", "outbox_strict")),
    change_added)


# ---- backfill: rows that are there already --------------------------------------------------------

MILLION = 1_000_000
# Of a message about a row of bench.orders, without its headers.
READ = 210


def backfill(delivery, batch=1000):
    """nats_publish_rows() of a table that nobody writes meanwhile."""
    def run(bench):
        count = bench.scaled(MILLION)
        bench.new_stream()
        with bench.session() as session:
            session.run("DROP TABLE IF EXISTS bench.published;\n"
                        f"CREATE TABLE bench.published (LIKE bench.orders INCLUDING ALL);\n{insert(count)}\n"
                        f"SELECT nats_publish_table('bench.published', 'bench.{{table}}.{{op}}', delivery => '{delivery}');\n"
                        "VACUUM ANALYZE bench.published;\nCHECKPOINT;")
            connect(session)
            cpu, _ = session.usage()
            ms = session.milliseconds("SET client_min_messages = warning;\n"
                                      f"CALL nats_publish_rows('bench.published', batch => {batch});")
            cpu_after, _ = session.usage()
        bench.check_stored(count + 1)
        return {"rate": count / ms * 1000, "cpu_us": (cpu_after - cpu) / count}
    return run


BACKFILL = Row(
    "backfill", "nats_publish_rows: 1,000,000 rows, in chunks of 1000 (the last side: of 10,000); plain C with a payload as long "
    "as theirs",
    ("rate", "cpu_us"), (
        Side("table_on_commit", backfill("on_commit")),
        Side("table_async", backfill("async")),
        Side("table_large_batch", backfill("on_commit", 10_000)),
        plain_c("evloop_hdr", MILLION, size=READ),
    ),
    (Bar("rate", "table_on_commit", "evloop_hdr", at_least=0.7),
     Bar("rate", "table_async", "evloop_hdr", at_least=0.7),
     Bar("rate", "table_large_batch", "evloop_hdr")))


# ---- pgbench: what a trigger leaves of a database's throughput -----------------------------------

PGBENCH_SCALE = 10
PGBENCH_CLIENTS = 8
PGBENCH_SECONDS = 30
# What the triggers publish there a second, for the side that does it without PostgreSQL.
PGBENCH_RATE = 2_800


def tpcb(trigger=""):
    """pgbench's own script, with a trigger on the table that each of its transactions updates once."""
    def run(bench):
        seconds = bench.seconds(PGBENCH_SECONDS)
        bench.new_stream()
        bench.pgbench_tables(PGBENCH_SCALE)
        with bench.session() as session, bench.relay() if "'outbox'" in trigger else nullcontext() as relay:
            session.run(f"{trigger}\nCHECKPOINT;")
            with bench.listener("bench") if "to_channel" in trigger else nullcontext() as listener:
                tps = bench.pgbench_tps(PGBENCH_CLIENTS, seconds)
                # An UPDATE that adds 0 changes nothing, and is not published.
                transactions, changes = session.row(
                    "SELECT count(*), count(*) FILTER (WHERE delta <> 0) FROM pgbench_history")
                if listener:
                    listener.wait_for(transactions)
                if relay:
                    bench.wait_until_stored(changes)
                    relay.wait_for_state("idle")
        bench.check_stored(changes if "nats_publish_table" in trigger else 0)
        return {"tps": tps, "seconds": seconds}
    return run


def plain_c_beside(bench):
    """No trigger, and PGBENCH_RATE messages a second by plain C: what a machine without spare cores has left."""
    seconds = bench.seconds(PGBENCH_SECONDS)
    bench.new_stream()
    bench.pgbench_tables(PGBENCH_SCALE)
    with bench.session() as session:
        session.run("CHECKPOINT;")
    with bench.publishing_beside(PGBENCH_CLIENTS, PGBENCH_RATE, seconds) as beside:
        tps = bench.pgbench_tps(PGBENCH_CLIENTS, seconds)
    bench.check_stored(beside.messages)
    return {"tps": tps, "seconds": seconds}


def published_accounts(delivery):
    return tpcb("SELECT nats_publish_table('pgbench_accounts', 'bench.{table}.{op}', "
                f"delivery => '{delivery}');")


PGBENCH = Row(
    "pgbench", "pgbench's TPC-B at scale 10, 8 clients, one message for each transaction, with the default settings; "
    "fsync and synchronous_commit on",
    ("tps", "seconds"), (
        Side("no_trigger", tpcb()),
        Side("notify", tpcb("CREATE TRIGGER notify AFTER UPDATE ON pgbench_accounts "
                            "FOR EACH ROW EXECUTE FUNCTION bench.to_channel();")),
        Side("table_on_commit", published_accounts("on_commit")),
        Side("table_async", published_accounts("async")),
        Side("table_outbox", published_accounts("outbox")),
        Side("c_beside", plain_c_beside),
    ),
    (Bar("tps", "table_on_commit", "no_trigger", at_least=0.8),
     Bar("tps", "table_outbox", "no_trigger", at_least=0.9),
     Bar("tps", "table_async", "no_trigger"),
     Bar("tps", "c_beside", "no_trigger"),
     Bar("tps", "notify", "no_trigger")))


# ---- relay: how fast it empties the outbox, and how soon a message is sent -----------------------

BACKLOG = 200_000
DELAY_SECONDS = 20
DELAY_RATE = 100


def backlog(ordering, wanted=BACKLOG, subjects=1, **settings):
    """A backlog that was written while the relay was paused; the time from its resumption to the last message."""
    def run(bench):
        count = bench.scaled(wanted)
        bench.new_stream()
        with bench.relay(paused=True, ordering=ordering, **settings) as relay:
            relay.session.run(
                f"SELECT count(nats_publish_outbox('bench.' || i % {subjects}, repeat('x', {PAYLOAD}))) "
                f"FROM generate_series(1, {count}) AS i;\nCHECKPOINT;")
            cpu, switches = relay.usage()
            started = time.monotonic()
            relay.session.run("SELECT nats_relay_resume();")
            bench.wait_until_stored(count)
            seconds = time.monotonic() - started
            relay.wait_for_state("idle")
            cpu_after, switches_after = relay.usage()
        bench.check_stored(count)
        return {"rate": count / seconds, "cpu_us": (cpu_after - cpu) / count, "csw": (switches_after - switches) / count}
    return run


def backlog_plain_c(subjects=1):
    """The same number of messages to the same subjects: nats-server takes longer when there are many."""
    def run(bench):
        metrics = bench.baseline("evloop_hdr", count=bench.scaled(BACKLOG), size=PAYLOAD, subjects=subjects)
        return {name: metrics[name] for name in ("rate", "cpu_us", "csw")}
    return run


class Arrivals(threading.Thread):
    """The clock at which each message came to a plain subscription; number(payload) is 0, 1, 2, ..."""

    def __init__(self, client, number):
        super().__init__()
        self._client = client
        self._number = number
        self.at = {}

    def run(self):
        while (payload := self._client.next_message()) is not None:
            self.at[self._number(payload)] = time.monotonic()


def percentiles(seconds):
    us = sorted(value * 1e6 for value in seconds)
    return {"p50_us": us[len(us) // 2], "p99_us": us[int(len(us) * 0.99)], "max_us": us[-1]}


def one_by_one(bench, relay, count, write="SELECT nats_publish_outbox('bench.a', '{}')", number=int):
    """One message in a transaction, 100 times a second: when each COMMIT was sent, and answered, and the message came."""
    sent, answered = [], []
    with NatsClient(bench.nats) as client:
        client.subscribe("bench.a")
        arrivals = Arrivals(client, number)
        arrivals.start()
        try:
            started = time.monotonic()
            for i in range(count):
                time.sleep(max(started + i / DELAY_RATE - time.monotonic(), 0))
                relay.session.run(f"BEGIN;\n{write.format(i)};")
                sent.append(time.monotonic())
                relay.session.run("COMMIT;")
                answered.append(time.monotonic())
            wait_for(lambda: len(arrivals.at) == count, "the subscriber did not receive all messages")
        finally:
            client.shut_down()
            arrivals.join()
    return list(zip(sent, answered, (arrivals.at[i] for i in range(count))))


def delay(bench, start=lambda bench: bench.relay()):
    count = DELAY_RATE * bench.seconds(DELAY_SECONDS)
    bench.new_stream()
    with start(bench) as relay:
        times = one_by_one(bench, relay, count)
        bench.wait_until_stored(count)
    bench.check_stored(count)
    return {**percentiles(came - answered for _, answered, came in times),
            **{f"sent_{name}": value for name, value in percentiles(came - sent for sent, _, came in times).items()}}


def delay_sent(results):
    return {("", "delay_sent"): {name.removeprefix("sent_"): value
                                 for name, value in results["", "delay"].items() if name.startswith("sent_")}}


RELAY = Row(
    "relay", "The relay: a backlog of 200,000 messages, from its resumption to the last of them in the stream; and 100 "
    "transactions a second of one message each, from COMMIT to a subscriber",
    ("rate", "cpu_us", "csw", "p50_us", "p99_us", "max_us"), (
        Side("relaxed", backlog("relaxed")),
        Side("strict_1", backlog("strict")),
        Side("strict_100", backlog("strict", subjects=100)),
        Side("strict_10000", backlog("strict", subjects=10_000)),
        Side("pipelined_1", backlog("pipelined")),
        Side("pipelined_100", backlog("pipelined", subjects=100)),
        Side("pipelined_10000", backlog("pipelined", subjects=10_000)),
        Side("evloop_hdr", backlog_plain_c()),
        Side("evloop_hdr_100", backlog_plain_c(100)),
        Side("evloop_hdr_10000", backlog_plain_c(10_000)),
        Side("delay", delay),
    ),
    (Bar("rate", "relaxed", "evloop_hdr", at_least=0.95),
     Bar("rate", "strict_1", "evloop_hdr"),
     Bar("rate", "strict_100", "evloop_hdr_100"),
     Bar("rate", "strict_10000", "evloop_hdr_10000"),
     Bar("rate", "pipelined_1", "evloop_hdr", at_least=0.9),
     Bar("rate", "pipelined_100", "evloop_hdr_100", at_least=0.9),
     Bar("rate", "pipelined_10000", "evloop_hdr_10000", at_least=0.9),
     Bar("rate", "evloop_hdr_10000", "evloop_hdr"),
     Bar("cpu_us", "relaxed", "evloop_hdr"),
     Bar("cpu_us", "relaxed", at_most=2.0),
     Bar("p50_us", "delay", at_most=300),
     Bar("p99_us", "delay", at_most=2000),
     Bar("p50_us", "delay_sent")),
    delay_sent)


# ---- relay_load: the same with an outbox that holds what it can't be rid of -----------------------------

# LARGE=1 asks for what takes minutes.
LARGE = bool(os.environ.get("LARGE"))
LOAD_DEAD = (0, 30_000, 300_000) + ((3_000_000,) if LARGE else ())
LOAD_WAITING = 1_000_000 if LARGE else 100_000
LOAD_SUBJECTS = 100
LOAD_BEHIND = 30_000
LOAD_SECONDS = 5
LOAD_BACKLOG = 50_000
LOAD_WAL_SECONDS = 60
LOAD_PATIENCE = 1200


def write_messages(session, count, subject="'bench.load'"):
    session.run(f"SELECT count(nats_publish_outbox({subject}, repeat('x', {PAYLOAD}))) "
                f"FROM (SELECT generate_series(1, {count}) AS i) AS series;")


@contextmanager
def dead(bench, relay, count):
    """Rows that were published and deleted, and that a transaction keeps from being removed."""
    with bench.session() as old:
        old.run("BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT count(*) FROM nats_outbox;")
        # of many subjects, for which the relay takes seconds and not minutes
        write_messages(relay.session, count, f"'bench.load.' || i % {LOAD_SUBJECTS}")
        bench.wait_until_stored(count)
        relay.wait_for_state("idle")
        yield count


@contextmanager
def waiting(bench, relay, count):
    """Rows that the relay has tried, and tries again when there is a stream."""
    write_messages(relay.session, count, "'missing.' || i")
    # in the end, 4 are tried in a second
    wait_for(lambda: relay.session.value("SELECT count(*) FROM nats_outbox WHERE next_attempt_at IS NULL "
                                         f"OR next_attempt_at < now() + interval '{min(count / 80, 30)} s'") == "0",
             "the relay did not put off what no stream takes", LOAD_PATIENCE)
    yield 0


@contextmanager
def held(bench, relay, count):
    """The same with the rows of a few subjects, of which only the first ones are tried."""
    write_messages(relay.session, count, f"'missing.' || i % {LOAD_SUBJECTS}")
    wait_for(lambda: relay.session.value("SELECT count(*) FROM nats_outbox WHERE next_attempt_at IS NOT NULL") == str(LOAD_SUBJECTS),
             "the relay did not try each subject", LOAD_PATIENCE)
    yield 0


@contextmanager
def writer(bench, relay, count):
    """A transaction that has written a message, and others behind it."""
    with bench.session() as slow:
        slow.run("BEGIN;\nSELECT nats_publish_outbox('bench.slow', '');")
        write_messages(relay.session, count)
        bench.wait_until_stored(count)
        relay.wait_for_state("idle")
        yield count
        stored = bench.stored()
        slow.run("COMMIT;")
        bench.wait_until_stored(stored + 1)


def wal_per_minute(relay, seconds, retried=False):
    """
    Of a database in which nothing happens but what the relay does, in MB; retried: as it is when hours have passed, and what
    waits is tried again, in the order in which it was put off. Behind a checkpoint, each page is written whole when it is
    changed first.
    """
    if retried:
        # a join in several batches would scatter what lies side by side
        relay.session.run("SET work_mem = '1GB';\nUPDATE nats_outbox AS o SET next_attempt_at = now() + (last - now()) * n / count "
                          "FROM (SELECT id, max(next_attempt_at) OVER () AS last, count(*) OVER () AS count, "
                          "row_number() OVER (ORDER BY next_attempt_at, id) / 250 * 250 AS n "
                          "FROM nats_outbox WHERE next_attempt_at IS NOT NULL) AS due WHERE o.id = due.id;")
    # autovacuum, which would come once after all that has been written
    relay.session.run("VACUUM ANALYZE nats_outbox;\nCHECKPOINT;")
    before = relay.session.value("SELECT pg_current_wal_lsn()")
    time.sleep(seconds)
    return float(relay.session.value(f"SELECT pg_current_wal_lsn() - '{before}'")) / seconds * 60 / 1e6


def loaded(load, wanted):
    def run(bench):
        count = DELAY_RATE * bench.seconds(LOAD_SECONDS)
        behind = bench.scaled(LOAD_BACKLOG)
        bench.new_stream()
        with bench.relay() as relay, load(bench, relay, bench.scaled(wanted)) as stored:
            metrics = {}
            if load in (waiting, held):
                seconds = bench.seconds(LOAD_WAL_SECONDS)
                metrics = {"wal_mb": wal_per_minute(relay, seconds), "wal_retried_mb": wal_per_minute(relay, seconds, True)}
            relay.session.run("CHECKPOINT;")
            cpu, _ = relay.usage()
            times = one_by_one(bench, relay, count)
            relay.wait_for_state("idle")
            cpu_after, _ = relay.usage()
            relay.session.run("SELECT nats_relay_pause();")
            relay.wait_for_state("paused")
            write_messages(relay.session, behind)
            started = time.monotonic()
            relay.session.run("SELECT nats_relay_resume();")
            bench.wait_until_stored(stored + count + behind)
            seconds = time.monotonic() - started
        bench.check_stored(stored + count + behind + (load is writer))
        return {"commit_us": median(answered - sent for sent, answered, _ in times) * 1e6,
                **percentiles(came - answered for _, answered, came in times),
                "cpu_us": (cpu_after - cpu) / count, "rate": behind / seconds, **metrics}
    return run


def load_ratios(results):
    """Of each load to none."""
    none = results["0", "dead"]
    return {key: {**metrics, **{f"{name}_ratio": metrics[name] / none[name] for name in ("commit_us", "p50_us", "cpu_us", "rate")}}
            for key, metrics in results.items() if key != ("0", "dead")}


RELAY_LOAD = Row(
    "relay_load", "The relay with a loaded outbox: 100 transactions a second of one message each (its COMMIT, from there to a "
    "subscriber, the relay's CPU); then a backlog of 50,000 messages (rate); WAL is of a minute in which nothing happens",
    ("commit_us", "p50_us", "p99_us", "cpu_us", "rate", "wal_mb", "wal_retried_mb"),
    tuple(Side("dead", loaded(dead, count), str(count)) for count in LOAD_DEAD) +
    (Side("waiting", loaded(waiting, LOAD_WAITING), str(LOAD_WAITING)),
     Side("held", loaded(held, LOAD_WAITING), str(LOAD_WAITING)),
     Side("writer", loaded(writer, LOAD_BEHIND), str(LOAD_BEHIND))),
    tuple(Bar(f"{metric}_ratio", side, case=str(count), at_most=1.2)
          for side, count in (*(("dead", count) for count in LOAD_DEAD[1:]), ("waiting", LOAD_WAITING), ("held", LOAD_WAITING),
                             ("writer", LOAD_BEHIND))
          for metric in ("commit_us", "p50_us", "cpu_us")) +
    tuple(bar for side in ("waiting", "held") for bar in (
        Bar("rate_ratio", side, case=str(LOAD_WAITING), at_least=0.7),
        Bar("wal_mb", side, case=str(LOAD_WAITING), at_most=1.0),
        Bar("wal_retried_mb", side, case=str(LOAD_WAITING), at_most=1.0))),
    load_ratios)


# ---- wal: what is read from the WAL -----------------------------------------------------------------

WAL_MESSAGES = 1_000_000
WAL_TRANSACTION = 1000
# The payload of a change of bench.wal_rows has so many bytes, give or take the digits of its id.
WAL_CHANGE_SIZE = 276
WAL_CALLS = 100_000


# A transaction of so many is not written to files while it is decoded.
DECODED_IN_MEMORY = "2000MB"


def wal_backlog(write, one=False, wanted=WAL_MESSAGES, work_mem="64MB"):
    """Like backlog(): what was committed while the relay was paused, which has decoded no more of it than it keeps in memory."""
    def run(bench):
        count = bench.scaled(wanted)
        bench.new_stream()
        with bench.wal_relay(work_mem=work_mem, ordering="pipelined") as relay, Peak(relay.pid()) as peak:
            relay.session.run("TRUNCATE bench.wal_rows;\n"
                              "SELECT nats_publish_table('bench.wal_rows', 'bench.a', delivery => 'wal');\n"
                              "SELECT nats_relay_pause();")
            relay.wait_for_state("paused")
            relay.session.run("SET nats_publish.outbox_storage = wal;\n"
                              f"CALL bench.{write}({count}, {count if one else WAL_TRANSACTION});\nCHECKPOINT;")
            cpu, switches = relay.usage()
            started = time.monotonic()
            relay.session.run("SELECT nats_relay_resume();")
            bench.wait_until_stored(count)
            seconds = time.monotonic() - started
            relay.wait_for_state("idle")
            cpu_after, switches_after = relay.usage()
            relay.session.run("SELECT nats_unpublish_table('bench.wal_rows');")
        bench.check_stored(count)
        return {"rate": count / seconds, "cpu_us": (cpu_after - cpu) / count, "csw": (switches_after - switches) / count,
                "peak_mb": peak.mb}
    return run


def wal_plain_c(size):
    def run(bench):
        metrics = bench.baseline("evloop_hdr", count=bench.scaled(WAL_MESSAGES), size=size)
        return {name: metrics[name] for name in ("rate", "cpu_us", "csw")}
    return run


@contextmanager
def wal_writer(bench):
    with bench.wal_relay() as relay:
        relay.session.run("SET nats_publish.outbox_storage = wal;")
        yield relay


def outbox_calls(storage):
    """Calls in one transaction, COMMIT included; the relay is paused meanwhile, so that it takes no processor from them."""
    def run(bench):
        count = bench.scaled(WAL_CALLS)
        bench.new_stream()
        with bench.wal_relay() as relay:
            relay.session.run(f"SET nats_publish.outbox_storage = '{storage}';\nSELECT nats_relay_pause();")
            relay.wait_for_state("paused")
            relay.session.run("CHECKPOINT;")
            ms = relay.session.milliseconds(f"BEGIN;\n{select('nats_publish_outbox', count)}\nCOMMIT;")
            relay.session.run("SELECT nats_relay_resume();")
            bench.wait_until_stored(count)
        bench.check_stored(count)
        return {"ms": ms, "row_us": ms * 1000 / count}
    return run


WAL = Row(
    "wal", "The WAL: 1,000,000 changed rows and messages of the outbox that were committed while the relay was paused, from its "
    "resumption to the last of them in the stream; 100 transactions a second of one message each, from COMMIT to a "
    "subscriber; and 100,000 calls of nats_publish_outbox() in one transaction",
    ("rate", "cpu_us", "csw", "peak_mb", "p50_us", "p99_us", "max_us", "row_us"), (
        Side("wal_changes", wal_backlog("write_rows")),
        Side("wal_changes_one", wal_backlog("write_rows", one=True)),
        Side("wal_changes_one_kept", wal_backlog("write_rows", one=True, work_mem=DECODED_IN_MEMORY)),
        Side("evloop_change", wal_plain_c(WAL_CHANGE_SIZE)),
        Side("wal_outbox", wal_backlog("write_outbox")),
        Side("wal_outbox_one", wal_backlog("write_outbox", one=True)),
        Side("wal_outbox_one_kept", wal_backlog("write_outbox", one=True, work_mem=DECODED_IN_MEMORY)),
        Side("evloop_hdr", wal_plain_c(PAYLOAD)),
        Side("wal_delay", lambda bench: delay(bench, wal_writer)),
        Side("call_wal", outbox_calls("wal")),
        Side("call_table", outbox_calls("table")),
    ),
    (Bar("rate", "wal_changes", "evloop_change", at_least=0.85),
     Bar("rate", "wal_changes_one", "evloop_change", at_least=0.85),
     Bar("rate", "wal_changes_one_kept", "evloop_change"),
     Bar("rate", "wal_outbox", "evloop_hdr", at_least=0.9),
     Bar("rate", "wal_outbox_one", "evloop_hdr", at_least=0.9),
     Bar("rate", "wal_outbox_one_kept", "evloop_hdr"),
     Bar("peak_mb", "wal_changes_one", at_most=128),
     Bar("peak_mb", "wal_outbox_one", at_most=128),
     Bar("p50_us", "wal_delay", at_most=500),
     Bar("p99_us", "wal_delay", at_most=5000),
     Bar("row_us", "call_wal", "call_table", at_most=0.25)))


# ---- pgbench_wal: what it leaves of a database's throughput -------------------------------------------

def tpcb_wal(delivery=None):
    """pgbench's own script with wal_level = logical, and a message of the WAL for each row of pgbench_history."""
    def run(bench):
        seconds = bench.seconds(PGBENCH_SECONDS)
        bench.new_stream()
        bench.pgbench_tables(PGBENCH_SCALE)
        with bench.wal_relay(ordering="pipelined") if delivery else bench.wal_level_logical() as relay, bench.session() as session:
            if relay:
                session.run("ALTER DATABASE postgres SET nats_publish.outbox_storage = wal;\n"
                            f"SELECT nats_publish_table('pgbench_history', 'bench.{{table}}', events => '{{insert}}', delivery => '{delivery}');")
            session.run("CHECKPOINT;")
            tps = bench.pgbench_tps(PGBENCH_CLIENTS, seconds)
            transactions = int(session.value("SELECT count(*) FROM pgbench_history"))
            if relay:
                bench.wait_until_stored(transactions)
                session.run("ALTER DATABASE postgres RESET nats_publish.outbox_storage;")
        bench.check_stored(transactions if delivery else 0)
        return {"tps": tps, "seconds": seconds}
    return run


PGBENCH_WAL = Row(
    "pgbench_wal", "pgbench's TPC-B at scale 10, 8 clients, wal_level = logical, one message of the WAL for each transaction, all of "
    "one subject, pipelined; fsync and synchronous_commit on",
    ("tps", "seconds"), (
        Side("no_trigger", tpcb_wal()),
        Side("tpcb_changes", tpcb_wal("wal")),
        Side("tpcb_outbox", tpcb_wal("outbox")),
    ),
    (Bar("tps", "tpcb_changes", "no_trigger", at_least=0.8),
     Bar("tps", "tpcb_outbox", "no_trigger", at_least=0.8)))


ROWS = (ASYNC, ON_COMMIT, SYNC, SMALL, CALL_TIMES, TABLE, CPU, SCALE, BACKENDS_ROW, HELD_ROW, PAYLOAD_SIZES, CHANGE, BACKFILL,
        PGBENCH, RELAY, RELAY_LOAD, WAL, PGBENCH_WAL)
