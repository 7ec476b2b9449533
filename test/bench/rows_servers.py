"""The rows of other servers than the one of rows.py: a stream of three replicas, TLS, a disk that each message waits for."""

from contextlib import contextmanager

from rows import LABELS, PAYLOAD, Bar, Row, Side, backlog, in_backend, plain_c, settings, transaction
from workbench import LeftOut, NatsCluster, NatsServer, tls_server

LABELS.update({
    "ours_on_commit": "nats_publish_on_commit()",
    "ours_atomic": "nats_publish_on_commit(), atomic, 1000 a transaction",
    "ours_held": "nats_publish_on_commit(), 1000 a transaction",
    "evloop_1000": "plain-C event loop, 1000 at a time",
    "evloop_batch": "plain-C event loop, atomic batches of 1000",
})


def one_by_one_here(wanted):
    """nats_publish(), each waited for."""
    return Side("ours_sync", in_backend(
        lambda bench: f"SELECT * FROM bench.sync({bench.scaled(wanted)}, repeat('x', {PAYLOAD}))",
        lambda bench: bench.scaled(wanted)))


# ---- r3, tls: what the other rows measure, through what lies between -------------------------------------

FEW = 5_000
SOME = 50_000


def at_once(mode, count=SOME):
    """Its percentiles would be of the whole."""
    side = plain_c(mode, count)

    def run(bench):
        metrics = side.run(bench)
        return {name: metrics[name] for name in ("rate", "cpu_us")}
    return Side(mode, run)


def all_ways():
    """Each way to publish; without ids, but for the relay, which always has some."""
    return (
        one_by_one_here(FEW),
        plain_c("sync", FEW, latency="call"),
        Side("ours_async", transaction("nats_publish_async", SOME)),
        Side("ours_on_commit", transaction("nats_publish_on_commit", SOME)),
        at_once("async"),
        at_once("evloop"),
        Side("relaxed", backlog("relaxed", SOME)),
        at_once("evloop_hdr"),
    )


def all_ways_bars():
    return (
        Bar("rate", "ours_sync", "sync"),
        Bar("p50_us", "ours_sync", "sync"),
        Bar("rate", "ours_async", "async"),
        Bar("rate", "ours_async", "evloop"),
        Bar("rate", "ours_on_commit", "async"),
        Bar("rate", "ours_on_commit", "evloop"),
        Bar("rate", "relaxed", "evloop_hdr"),
        Bar("cpu_us", "ours_async", "evloop"),
    )


WAYS = (f"{FEW:,} messages, each waited for; {SOME:,} in one transaction, COMMIT included; and {SOME:,} of the outbox, from the "
        "relay's resumption to the last in the stream")

R3 = Row(
    "r3", f"A stream of three replicas, on three nats-servers of this machine, led by the one that everybody connects to: {WAYS}",
    ("rate", "cpu_us", "p50_us", "p99_us"), all_ways(), all_ways_bars(),
    place=lambda bench: bench.servers(NatsCluster, num_replicas=3))

TLS = Row(
    "tls", f"TLS, the server's certificate checked: {WAYS}",
    ("rate", "cpu_us", "p50_us", "p99_us"), all_ways(), all_ways_bars(),
    place=lambda bench: bench.servers(tls_server))


# ---- sync_always: a server that syncs each message before it acknowledges it --------------------------------

BATCH = 1000
BATCHES = 20
# Such a server acknowledges what it has got together when all of it is on the disk: 4096 messages in flight on a disk that takes
# 1.3 ms have no answer within 5 s. Plain C here waits for a minute, and so do we.
PATIENT = {"ack_timeout": "60s", "commit_timeout": "60s"}
# What sync_interval: always needs, and atomic batches.
SINCE = (2, 10)
BATCHES_SINCE = (2, 12)


def is_since(bench, version):
    return tuple(map(int, bench.nats.version.split(".")[:2])) >= version


@contextmanager
def syncing_server(bench):
    if not is_since(bench, SINCE):
        raise LeftOut(f"nats-server {bench.nats.version} has no sync_interval: always; NATS_SERVER can name one of 2.10 or later")
    atomic = {"allow_atomic": True} if is_since(bench, BATCHES_SINCE) else {}
    with bench.servers(lambda directory: NatsServer(directory, jetstream="sync_interval: always"), **atomic):
        yield


def batches(bench):
    return max(bench.scaled(BATCHES * BATCH) // BATCH, 1)


def held_commits(commit_batch):
    """Transactions of BATCH messages each, COMMIT included."""
    def run(bench):
        bench.new_stream()
        with bench.session(**settings(False), **PATIENT, commit_batch=commit_batch) as session:
            session.run("SELECT nats_publish('bench.connect', ''::text);")
            timing = session.row(f"CALL bench.held_commits({batches(bench)}, {BATCH}, repeat('x', {PAYLOAD}))")
        bench.check_stored(batches(bench) * BATCH + 1)
        return {"rate": timing[0] * BATCH, "p50_us": timing[1], "p99_us": timing[2]}
    return run


def plain_c_batches(mode):
    def run(bench):
        return bench.baseline(mode, count=batches(bench) * BATCH, batch=BATCH, size=PAYLOAD)
    return run


def of_batches(run):
    """A side that only newer servers can have."""
    return lambda bench: run(bench) if is_since(bench, BATCHES_SINCE) else {}


SYNC_ALWAYS = Row(
    "sync_always", "nats-server with sync_interval: always, which has a message on its disk before it acknowledges it: "
    f"{FEW:,} messages, each waited for; {BATCHES * BATCH:,} in one transaction; and {BATCHES} transactions of {BATCH:,} each, "
    "pipelined or as an atomic batch; the percentiles are of calls, and of transactions",
    ("rate", "p50_us", "p99_us"), (
        one_by_one_here(FEW),
        plain_c("sync", FEW, latency="call"),
        Side("ours_async", transaction("nats_publish_async", BATCHES * BATCH, **PATIENT)),
        at_once("async", BATCHES * BATCH),
        at_once("evloop", BATCHES * BATCH),
        Side("ours_held", held_commits("pipelined")),
        Side("evloop_1000", plain_c_batches("evloop")),
        Side("ours_atomic", of_batches(held_commits("atomic"))),
        Side("evloop_batch", of_batches(plain_c_batches("evloop_batch"))),
    ),
    (Bar("rate", "ours_sync", "sync"),
     Bar("rate", "ours_async", "async"),
     Bar("rate", "ours_async", "evloop"),
     Bar("rate", "ours_held", "evloop_1000"),
     Bar("rate", "ours_atomic", "evloop_batch"),
     Bar("rate", "ours_atomic", "ours_held")),
    place=syncing_server)
