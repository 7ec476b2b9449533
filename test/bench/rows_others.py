"""The rows that compare with what people run otherwise: their own program with a client of NATS, an outbox with a relay of their
own, change data capture of their own. Programs of others/, by Go with Debian's nats.go and by Node with packages of npm; a
side whose language is not here is left out.
"""

import json
import time
from contextlib import contextmanager

from programs import go_program, node_program, running_node
from rows import (LABELS, PAYLOAD, WAL_TRANSACTION, Bar, Row, Side, backlog, in_backend, one_by_one, percentiles, plain_c, transaction,
                  wal_backlog, wal_writer)

LABELS.update({
    "ours_sync_ids": "nats_publish(), ids",
    "go_async": "nats.go, PublishAsync",
    "go_sync": "nats.go, Publish",
    "node_async": "Node, promises",
    "node_sync": "Node, await of each",
    "node_relay": "outbox with a Node relay, batches of 1000",
    "node_delay": "outbox with a Node relay that looks each 10 ms",
    "relay_delay": "nats_publish_outbox(), the relay",
    "node_cdc": "Node on pgoutput",
    "node_cdc_delay": "Node on pgoutput, a transaction a message",
    "wal_rows_delay": "delivery wal, a transaction a message",
})


# ---- clients: a program that publishes ---------------------------------------------------------------

MANY = 100_000
FEW = 10_000


def of_program(program, mode, count):
    """program(bench): the command that begins it, or None if its language is not here."""
    def run(bench):
        command = program(bench)
        return command and bench.measured([*command, bench.nats.url, mode, bench.scaled(count), PAYLOAD], bench.scaled(count))
    return run


CLIENTS = Row(
    "clients", f"A program that publishes {MANY:,} messages with ids, 4096 of them unacknowledged at most, or {FEW:,}, each "
    "waited for; nats_publish in one transaction, COMMIT included",
    ("rate", "cpu_us", "p50_us", "p99_us"), (
        Side("ours_ids", transaction("nats_publish_async", MANY, ids=True)),
        plain_c("async_msgid", MANY, latency="call"),
        Side("go_async", of_program(go_program, "async", MANY)),
        Side("node_async", of_program(node_program("publish.js"), "async", MANY)),
        Side("ours_sync_ids", in_backend(
            lambda bench: f"SELECT * FROM bench.sync({bench.scaled(FEW)}, repeat('x', {PAYLOAD}))",
            lambda bench: bench.scaled(FEW), ids=True)),
        Side("go_sync", of_program(go_program, "sync", FEW)),
        Side("node_sync", of_program(node_program("publish.js"), "sync", FEW)),
    ),
    (Bar("rate", "ours_ids", "go_async"),
     Bar("rate", "ours_ids", "node_async"),
     Bar("cpu_us", "ours_ids", "go_async"),
     Bar("rate", "ours_sync_ids", "go_sync"),
     Bar("rate", "ours_sync_ids", "node_sync")))


# ---- outboxes: a table, and who empties it -----------------------------------------------------------

OUTBOX = 50_000
RELAY_BATCH = 1000
RELAY_POLL_MS = 10


@contextmanager
def node_relay(bench):
    with bench.session() as session:
        session.run("TRUNCATE bench.other_outbox;")
        with running_node(bench, "outbox_relay.js", bench.nats.url, bench.cluster.directory, RELAY_BATCH, RELAY_POLL_MS) as relay:
            if relay:
                relay.session = session
            yield relay


def node_backlog(start, wanted, write):
    """From its beginning to the last message in the stream; the CPU is that of the program and of its backend. write(count) is
    the statement that makes the backlog."""
    def run(bench):
        count = bench.scaled(wanted)
        bench.new_stream()
        with start(bench) as relay:
            if not relay:
                return {}
            relay.session.run(f"{write(count)};\nCHECKPOINT;")
            cpu = relay.usage()
            started = time.monotonic()
            relay.begin()
            bench.wait_until_stored(count)
            seconds = time.monotonic() - started
            used = relay.usage() - cpu
            bench.check_stored(count)
        return {"rate": count / seconds, "cpu_us": used / count}
    return run


def write_outbox(count):
    return (f"INSERT INTO bench.other_outbox (subject, payload) SELECT 'bench.a', repeat('x', {PAYLOAD}) "
            f"FROM generate_series(1, {count});\nANALYZE bench.other_outbox")


DELAY_SECONDS = 5


def others_delay(start, write, number=int):
    """From the answer to COMMIT to a subscriber; start(bench) has a relay that runs, or None."""
    def run(bench):
        bench.new_stream()
        with start(bench) as relay:
            if not relay:
                return {}
            count = 100 * bench.seconds(DELAY_SECONDS)
            times = one_by_one(bench, relay, count, write, number)
            bench.wait_until_stored(count)
        bench.check_stored(count)
        return percentiles(came - answered for _, answered, came in times)
    return run


@contextmanager
def begun(start, bench):
    with start(bench) as relay:
        if relay:
            relay.begin()
        yield relay


OUTBOXES = Row(
    "outboxes", f"An outbox: {OUTBOX:,} messages, from the relay's beginning to the last of them in the stream, its backend's "
    "CPU included; and 100 transactions a second of one message each, from COMMIT to a subscriber",
    ("rate", "cpu_us", "p50_us", "p99_us"), (
        Side("relaxed", backlog("relaxed", OUTBOX)),
        Side("node_relay", node_backlog(node_relay, OUTBOX, write_outbox)),
        Side("relay_delay", others_delay(lambda bench: bench.relay(), "SELECT nats_publish_outbox('bench.a', '{}')")),
        Side("node_delay", others_delay(lambda bench: begun(node_relay, bench),
                                        "INSERT INTO bench.other_outbox (subject, payload) VALUES ('bench.a', '{}')")),
    ),
    (Bar("rate", "relaxed", "node_relay"),
     Bar("cpu_us", "relaxed", "node_relay"),
     Bar("p50_us", "relay_delay", "node_delay")))


# ---- cdc: changed rows -----------------------------------------------------------------------------------

CHANGES = 100_000


@contextmanager
def node_cdc(bench):
    with bench.wal_level_logical(), bench.session() as session:
        session.run("TRUNCATE bench.wal_rows;\nCREATE PUBLICATION bench_other FOR TABLE bench.wal_rows;\n"
                    "SELECT pg_create_logical_replication_slot('bench_other', 'pgoutput');")
        try:
            with running_node(bench, "cdc.js", bench.nats.url, bench.cluster.directory, "bench_other", "bench_other") as relay:
                if relay:
                    relay.session = session
                yield relay
        finally:
            with bench.session() as last:
                last.run("DROP PUBLICATION bench_other;\nSELECT pg_drop_replication_slot('bench_other');")


def write_rows(count):
    return f"CALL bench.write_rows({count}, {WAL_TRANSACTION})"


@contextmanager
def wal_rows_published(bench):
    with wal_writer(bench) as relay:
        relay.session.run("TRUNCATE bench.wal_rows;\n"
                          "SELECT nats_publish_table('bench.wal_rows', 'bench.a', delivery => 'wal');")
        yield relay
        relay.session.run("SELECT nats_unpublish_table('bench.wal_rows');")


WRITE_ROW = "INSERT INTO bench.wal_rows VALUES ({}, 'x')"


def id_of_row(payload):
    return json.loads(payload)["new"]["id"]


CDC = Row(
    "cdc", f"Change data capture: {CHANGES:,} inserted rows in transactions of {WAL_TRANSACTION:,}, from the beginning to the last "
    "of them in the stream, the backend's CPU included; and 100 transactions a second of one row each, from COMMIT to a subscriber",
    ("rate", "cpu_us", "p50_us", "p99_us"), (
        Side("wal_changes", wal_backlog("write_rows", wanted=CHANGES)),
        Side("node_cdc", node_backlog(node_cdc, CHANGES, write_rows)),
        Side("wal_rows_delay", others_delay(wal_rows_published, WRITE_ROW, id_of_row)),
        Side("node_cdc_delay", others_delay(lambda bench: begun(node_cdc, bench), WRITE_ROW, id_of_row)),
    ),
    (Bar("rate", "wal_changes", "node_cdc"),
     Bar("cpu_us", "wal_changes", "node_cdc"),
     Bar("p50_us", "wal_rows_delay", "node_cdc_delay")))
