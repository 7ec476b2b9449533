"""The row of many backends that publish now and then, as those of a pool do: how late, and what it needs at both ends."""

import random
from statistics import median

from rows import LABELS, PAYLOAD, Bar, Row, Side
from workbench import NatsServer, memory_of

LABELS.update({
    "now_and_then": "nats_publish() now and then",
    "now_and_then_none": "the same without publishing",
    "now_and_then_added": "added by publishing",
})

CONNECTED = (1, 64, 256, 1_000)
CONNECTED_RATE = 1_000              # messages a second of all backends together
CONNECTED_MESSAGES = 5_000
CONNECTED_LEAST = 4                 # by each of them
# A thousand connect at once, on two cores.
PATIENT = {"connect_timeout": "20s"}


def one_a_transaction(calls, connected):
    """A statement that publishes or does not: once by all of them, then by all in turn. The server is a new one, whose memory is
    that of these."""
    def run(bench):
        def look(pids):
            # What a thousand have takes a second to read.
            some = random.sample(pids, min(len(pids), 100))
            return {"pss_kb": sum(memory_of(pid)["pss_kb"] for pid in some) / len(some), "server_mb": bench.nats.resident_mb()}
        statement = f"SELECT {calls};"
        each = max(bench.scaled(CONNECTED_MESSAGES) // connected, CONNECTED_LEAST)
        with bench.servers(NatsServer):
            bench.new_stream()
            seen = bench.pgbench_held(statement, connected, look, **PATIENT)
            before, _ = bench.nats.usage()
            transactions = bench.pgbench_in_turn(statement, connected, CONNECTED_RATE, each, **PATIENT)
            seen["server_cpu_us"] = (bench.nats.usage()[0] - before) / len(transactions)
            bench.check_stored(len(transactions) + connected if "nats_publish" in calls else 0)
        return {**of_statements(transactions), **seen}
    return run


def of_statements(transactions):
    """Of (client, seconds from the first one, µs): those of the later half of the time, and the first of each client."""
    first = {}
    for client, _, us in transactions:
        first.setdefault(client, us)
    half = transactions[-1][1] / 2
    later = sorted(us for _, at, us in transactions if at > half)
    return {"rate": len(later) / half, "p50_us": later[len(later) // 2], "p99_us": later[int(len(later) * 0.99)],
            "first_us": median(first.values())}


def connected_sides(connected):
    payload = f"repeat('x', {PAYLOAD})"
    return (Side("now_and_then", one_a_transaction(f"nats_publish('bench.a', {payload})", connected), str(connected)),
            Side("now_and_then_none", one_a_transaction(payload, connected), str(connected)))


def connected_added(results):
    """What publishing adds to a statement, to a backend and to the server."""
    return {(case, "now_and_then_added"): {name: metrics[name] - results[case, "now_and_then_none"][name]
                                           for name in ("p50_us", "first_us", "pss_kb", "server_mb", "server_cpu_us")}
            for (case, side), metrics in results.items() if side == "now_and_then"}


# Most of PSS that a backend may grow by.
MOST_PSS_KB = {1: 512, 256: 150}

CONNECTED_ROW = Row(
    "connected", f"1 to 1,000 connected backends that publish {CONNECTED_RATE:,} messages a second together, each waited for, by "
    "pgbench; the first statement of each, those of the later half of the run, a backend's memory, nats-server's",
    ("rate", "p50_us", "p99_us", "first_us", "pss_kb", "server_mb", "server_cpu_us"),
    tuple(side for connected in CONNECTED for side in connected_sides(connected)),
    tuple(Bar("pss_kb", "now_and_then_added", at_most=most, case=str(connected)) for connected, most in MOST_PSS_KB.items()) +
    tuple(Bar("p50_us", "now_and_then_added", case=str(connected)) for connected in CONNECTED),
    connected_added)
