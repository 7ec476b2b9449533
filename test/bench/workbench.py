"""The private servers of a benchmark run, and the two kinds of publisher it measures.

Everything lives in one temporary directory and ends with the `with Workbench()` block.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
START_SECONDS = 30
EXIT_SECONDS = 5
DRAIN_SECONDS = 300
# How often a stream is asked what it holds while that is timed.
POLL_SECONDS = 0.005
# psql prints this after each command's output, so that we know where it ends.
END_MARK = "-- end of output --"


class Failure(Exception):
    """Something that ends the benchmark with a message and no traceback."""


def program(name, hint):
    """Path of an installed program; the sbin directories are not on every user's PATH."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin")
    if not found:
        raise Failure(f"{name} not found: {hint}")
    return found


def output_of(command, **options):
    try:
        done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, **options)
    except OSError as error:
        raise Failure(error) from None
    if done.returncode != 0:
        raise Failure(f"{Path(str(command[0])).name} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def wait_for(condition, what, seconds=START_SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failure(f"{what} within {seconds} s")
        time.sleep(0.02)


class NatsServer:
    """A nats-server with JetStream on a port that it chooses itself."""

    def __init__(self, directory):
        binary = program("nats-server", "install the package nats-server")
        directory.mkdir()
        self.version = output_of([binary, "--version"]).split()[-1].lstrip("v")
        self._log = directory / "log"
        config = directory / "conf"
        config.write_text(f"""
            listen: "127.0.0.1:-1"
            ports_file_dir: "{directory}"
            log_file: "{self._log}"
            jetstream {{ store_dir: "{directory / 'store'}" }}
        """)
        # A session of its own, so that Ctrl-C reaches the driver alone, which then stops it.
        self.process = subprocess.Popen([binary, "-c", str(config)], start_new_session=True,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._ports = directory / f"nats-server_{self.process.pid}.ports"

    def wait_until_ready(self):
        wait_for(lambda: self.process.poll() is not None
                 or self._ports.exists() and "Server is ready" in self._log.read_text(),
                 "nats-server did not start")
        if self.process.poll() is not None:
            raise Failure(f"nats-server did not start: {self._log.read_text().strip()}")
        self.url = json.loads(self._ports.read_text())["nats"][0]

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class NatsClient:
    """A plain connection to a nats-server; one thread at a time reads from it."""

    def __init__(self, url):
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname, address.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")
        self._file.readline()
        self._send(b'CONNECT {"verbose": false, "headers": true}\r\n')
        self._subscriptions = 0
        self._inbox = f"_INBOX.bench.{os.getpid()}.{id(self)}"
        self.subscribe(self._inbox)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        self._socket.close()

    def subscribe(self, subject):
        """Returns when the server has it."""
        self._subscriptions += 1
        self._send(f"SUB {subject} {self._subscriptions}\r\nPING\r\n".encode())
        while self._file.readline() != b"PONG\r\n":
            pass

    def request(self, subject):
        """The reply to an empty request."""
        self._send(f"PUB {subject} {self._inbox} 0\r\n\r\n".encode())
        return self.next_message()

    def next_message(self):
        """Payload of the next message; None when the connection was closed."""
        while True:
            words = self._file.readline().split()
            if not words:
                return None
            if words[0] == b"PING":
                self._send(b"PONG\r\n")
            elif words[0] in (b"MSG", b"HMSG"):
                body = self._file.read(int(words[-1]) + 2)[:-2]
                return body[int(words[-2]):] if words[0] == b"HMSG" else body

    def shut_down(self):
        """Ends what another thread waits for."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def _send(self, data):
        self._socket.sendall(data)


class Cluster:
    """A PostgreSQL cluster that listens on a socket in the temporary directory alone."""

    def __init__(self, directory):
        self._bin = Path(output_of([os.environ["PG_CONFIG"], "--bindir"]).strip())
        self._data = directory / "data"
        self.directory = directory
        # initdb refuses root
        owner = os.environ["BENCH_OWNER"]
        self._as_owner = [program("runuser", "needed by root"), "-u", owner, "--"] if owner else []
        directory.mkdir()
        if self._as_owner:
            shutil.chown(directory, owner)

    def start(self, settings):
        self._run("initdb", "-D", self._data, "-U", "postgres", "--auth=trust", "-E", "UTF8",
                  "--locale=C", "--no-sync")
        with open(self._data / "postgresql.conf", "a") as config:
            config.write(f"listen_addresses = ''\nunix_socket_directories = '{self.directory}'\n")
            config.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        self._run("pg_ctl", "start", "-w", "-D", self._data, "-l", self.directory / "log")
        self.version = output_of([self._bin / "postgres", "--version"]).split()[2]

    def stop(self):
        if (self._data / "postmaster.pid").exists():
            self._run("pg_ctl", "stop", "-w", "-m", "fast", "-D", self._data)

    def restart(self):
        self._run("pg_ctl", "restart", "-w", "-D", self._data, "-l", self.directory / "log")

    def client(self, name, *arguments):
        """Command line of a client program that connects to this cluster."""
        return [str(word) for word in
                (self._bin / name, *arguments, "-h", self.directory, "-U", "postgres")]

    def _run(self, name, *arguments):
        # The server inherits pg_ctl's standard output, so pg_ctl must not be given a pipe.
        with tempfile.TemporaryFile("w+") as log:
            done = subprocess.run([*self._as_owner, str(self._bin / name), *map(str, arguments)],
                                  cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            log.seek(0)
            if done.returncode != 0:
                raise Failure(f"{name} failed: {log.read().strip()}")


class Session:
    """One psql and its backend, kept for a run."""

    def __init__(self, cluster, settings):
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        self._errors = tempfile.TemporaryFile("w+")
        self._psql = subprocess.Popen(
            cluster.client("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env={**os.environ, "PGOPTIONS": options, "LC_ALL": "C"})
        self.pid = None
        try:
            self.pid = int(self.value("SELECT pg_backend_pid()"))
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Returns when the backend is gone: nothing of it is to run beside the next side."""
        try:
            self._psql.communicate(timeout=EXIT_SECONDS)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._psql.kill()
            self._psql.wait()
        self._errors.close()
        if self.pid:
            wait_for(lambda: not Path(f"/proc/{self.pid}").exists(), "the backend did not exit")

    def run(self, sql):
        """Lines of output of some SQL."""
        lines = []
        try:
            self._psql.stdin.write(f"{sql}\n\\echo {END_MARK}\n")
            self._psql.stdin.flush()
        except BrokenPipeError:
            pass
        for line in self._psql.stdout:
            line = line.rstrip("\n")
            if line == END_MARK:
                return lines
            lines.append(line)
        self._errors.seek(0)
        raise Failure(f"{sql.strip()}\n{self._errors.read().strip()}")

    def value(self, sql):
        return self.run(sql + ";")[0]

    def row(self, sql):
        """The one row of a query, as numbers."""
        return [float(field) for field in self.value(sql).split("|")]

    def milliseconds(self, sql):
        """What the client waited for the statements of some SQL, added up."""
        lines = self.run(f"\\timing on\n{sql}\n\\timing off")
        return sum(float(line.split()[1]) for line in lines if line.startswith("Time: "))

    def usage(self):
        return usage_of(self.pid)

    def memory(self):
        """Resident size, its peak, and proportional size in kB, and the number of threads."""
        rollup = keyed(Path(f"/proc/{self.pid}/smaps_rollup"))
        status = status_of(Path(f"/proc/{self.pid}"))
        return {"rss_kb": int(rollup["Rss"].split()[0]), "pss_kb": int(rollup["Pss"].split()[0]),
                "peak_kb": int(status["VmHWM"].split()[0]), "threads": int(status["Threads"])}


class Relay:
    """The relay of the cluster's database, or of its WAL, and a session beside it."""

    def __init__(self, session, status="nats_relay_status()"):
        self.session = session
        self._status = status

    def wait_for_state(self, *states):
        wait_for(lambda: self.session.run(f"SELECT state FROM {self._status} WHERE pid IS NOT NULL;") in
                 [[state] for state in states], f"the relay did not become {' or '.join(states)}")

    def pid(self):
        return int(self.session.value(f"SELECT pid FROM {self._status}"))

    def usage(self):
        return usage_of(self.pid())


class Peak(threading.Thread):
    """The most memory that a process has for itself, in MB, looked at all the time."""

    def __init__(self, pid):
        super().__init__()
        self._status = Path(f"/proc/{pid}")
        self._ended = threading.Event()
        self.mb = 0.0

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self.join()

    def run(self):
        while not self._ended.wait(0.02):
            self.mb = max(self.mb, int(status_of(self._status)["RssAnon"].split()[0]) / 1024)


class Beside:
    """Programs that run beside what is measured."""

    def __init__(self, processes, messages):
        self._processes = processes
        self.messages = messages

    def __enter__(self):
        return self

    def __exit__(self, *_):
        statuses = [process.wait() for process in self._processes]
        if any(statuses):
            raise Failure("a program beside the measured one failed")


class Listener:
    """A session that reads all the time what notifications one channel brings."""

    def __init__(self, session, channel):
        self._session = session
        self._session.run(f"LISTEN {channel};")
        self._stop = threading.Event()
        self._received = 0
        self._thread = threading.Thread(target=self._read)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self._session.close()

    def wait_for(self, count):
        wait_for(lambda: self._received >= count, "the listener did not receive all notifications")

    def _read(self):
        # psql reads them when a command has ended.
        while not self._stop.wait(0.05):
            lines = self._session.run("SELECT 1;")
            self._received += sum(line.startswith("Asynchronous notification") for line in lines)


def usage_of(pid):
    """(CPU in µs, voluntary context switches) of all threads of a process."""
    cpu = switches = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        # schedstat counts nanoseconds, where stat has ticks of 10 ms
        cpu += int((task / "schedstat").read_text().split()[0]) / 1000
        switches += int(status_of(task)["voluntary_ctxt_switches"])
    return cpu, switches


def keyed(path):
    """A /proc file of "key: value" lines."""
    return {key: value.strip() for key, _, value in
            (line.partition(":") for line in path.read_text().splitlines())}


def status_of(process):
    return keyed(process / "status")


class Workbench:
    """Servers, the compiled baseline, and what rows need to measure either side."""

    def __init__(self, divisor, duration=None):
        self._divisor = divisor
        self._duration = duration

    def __enter__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="nats_publish_bench."))
        self.directory.chmod(0o755)    # the postgres account must get through
        self.nats = self.cluster = None
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        # A second Ctrl-C must not leave a server behind.
        interrupts = (signal.SIGINT, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_BLOCK, interrupts)
        try:
            if self.cluster:
                self.cluster.stop()
        finally:
            if self.nats:
                self.nats.stop()
            shutil.rmtree(self.directory, ignore_errors=True)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupts)

    def _start(self):
        self._compile_baseline()
        self.nats = NatsServer(self.directory / "nats")
        self.nats.wait_until_ready()
        self.cluster = Cluster(self.directory / "pg")
        # Preloaded for the relay, which runs only where a row asks for it.
        self.cluster.start({"nats_publish.url": self.nats.url, "shared_preload_libraries": "nats_publish",
                            "max_connections": 300})
        with self.session() as session:
            session.run("CREATE EXTENSION nats_publish;")
            session.run(f"\\i {HERE}/bench.sql")
        self.libnats = self.baseline("async", count=1)["libnats"]

    def _compile_baseline(self):
        try:
            flags = output_of(["pkg-config", "--cflags", "--libs", "libnats"]).split()
        except Failure:
            flags = ["-lnats"]
        output_of([os.environ.get("CC") or "cc", "-std=gnu99", "-O2", "-o", self.directory / "baseline",
                   HERE / "baseline.c", *flags])

    def scaled(self, count):
        """A row's number of messages: less of it when the bench is only tried."""
        return max(count // self._divisor, min(count, 100))

    def seconds(self, wanted):
        """How long a row measures that is not of a number of messages."""
        return self._duration or max(wanted // self._divisor, 2)

    def session(self, **settings):
        """settings: those of nats_publish, by their short names."""
        return Session(self.cluster, {f"nats_publish.{name}": value for name, value in settings.items()})

    def new_stream(self):
        output_of([self.directory / "baseline", self.nats.url, "stream"])

    def stored(self):
        return int(output_of([self.directory / "baseline", self.nats.url, "stored"]).partition("=")[2])

    def check_stored(self, expected):
        """A rate counts only when every message is in the stream."""
        stored = self.stored()
        if stored != expected:
            raise Failure(f"the stream holds {stored} messages, not {expected}")

    def wait_until_stored(self, expected):
        """Asks the stream all the time, so that the caller can take the time."""
        deadline = time.monotonic() + DRAIN_SECONDS
        with NatsClient(self.nats.url) as client:
            while True:
                stored = json.loads(client.request("$JS.API.STREAM.INFO.BENCH"))["state"]["messages"]
                if stored >= expected:
                    return
                if time.monotonic() > deadline:
                    raise Failure(f"the stream holds {stored} messages, not {expected}")
                time.sleep(POLL_SECONDS)

    @contextmanager
    def relay(self, paused=False, **settings):
        """A relay that has just started, on an empty outbox; settings: the relay's, by the rest of their names."""
        settings = {"databases": "postgres", **settings}
        with self.session() as session:
            session.run("TRUNCATE nats_outbox, nats_outbox_dead, nats_control;\n"
                        f"SELECT nats_relay_{'pause' if paused else 'resume'}();")
            self._configure(session, (f"SET nats_publish.relay_{name} = '{value}'" for name, value in settings.items()))
            try:
                relay = Relay(session)
                relay.wait_for_state("paused", "idle")
                yield relay
            finally:
                with self.session() as session:
                    self._configure(session, (f"RESET nats_publish.relay_{name}" for name in settings))
                    wait_for(lambda: session.value("SELECT count(*) FROM pg_stat_activity "
                                                   "WHERE backend_type = 'nats_publish relay'") == "0",
                             "the relay did not end")

    @contextmanager
    def wal_level_logical(self):
        with self.session() as session:
            session.run("ALTER SYSTEM SET wal_level = logical;")
        self.cluster.restart()
        yield
        with self.session() as session:
            session.run("ALTER SYSTEM RESET wal_level;")
        self.cluster.restart()

    @contextmanager
    def wal_relay(self, **settings):
        """A relay of the WAL that has just started, with wal_level = logical; settings: as those of relay()."""
        with self.wal_level_logical(), self.relay(**settings) as relay:
            relay.session.run("SELECT nats_wal_enable();")
            wal_relay = Relay(relay.session, "nats_wal_relay_status()")
            wal_relay.wait_for_state("idle")
            try:
                yield wal_relay
            finally:
                with self.session() as session:
                    session.run("SELECT nats_wal_disable(discard => true);")

    @staticmethod
    def _configure(session, changes):
        session.run("\n".join(f"ALTER SYSTEM {change};" for change in changes) + "\nSELECT pg_reload_conf();")

    def baseline(self, mode, *, count, **keys):
        self.new_stream()
        words = [f"{key}={value}" for key, value in {"count": count, **keys}.items()]
        line = output_of([self.directory / "baseline", self.nats.url, mode, *words])
        self.check_stored(count)
        pairs = (word.partition("=") for word in line.split())
        return {key: value if key == "libnats" else float(value) for key, _, value in pairs}

    def publishing_beside(self, publishers, rate, seconds):
        """Plain-C programs that publish at this rate together, each message with an id and waited for."""
        each = max(rate // publishers, 1)
        words = [self.directory / "baseline", self.nats.url, "evloop_hdr", f"count={each * seconds}", "batch=1", f"rate={each}"]
        return Beside([subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL)
                       for _ in range(publishers)], each * seconds * publishers)

    def pgbench(self, script, transactions, **settings):
        """Latencies in µs of a script's transactions, by one client."""
        prefix = self.directory / "pgbench"
        options = " ".join(f"-c nats_publish.{name}={value}" for name, value in settings.items())
        path = self.directory / "script.sql"
        path.write_text(script)
        output_of(self.cluster.client("pgbench", "-n", "-c", 1, "-t", transactions, "-f", path, "-l",
                                      "--log-prefix", prefix) + ["postgres"],
                  env={**os.environ, "PGOPTIONS": options})
        logs = list(self.directory.glob("pgbench.*"))
        latencies = [float(line.split()[2]) for log in logs for line in log.read_text().splitlines()]
        for log in logs:
            log.unlink()
        return sorted(latencies)

    def pgbench_tables(self, scale):
        """pgbench's own tables as new; an autovacuum of them would disturb one side alone."""
        output_of(self.cluster.client("pgbench", "-i", "-q", "-s", scale) + ["postgres"])
        with self.session() as session:
            for table in ("accounts", "branches", "tellers", "history"):
                session.run(f"ALTER TABLE pgbench_{table} SET (autovacuum_enabled = off);")

    def pgbench_tps(self, clients, seconds):
        """Transactions per second of pgbench's own script, on tables as they are."""
        text = output_of(self.cluster.client("pgbench", "-n", "-c", clients, "-j", 2, "-T", seconds) + ["postgres"])
        return float(re.search(r"^tps = ([0-9.]+)", text, re.MULTILINE).group(1))

    def listener(self, channel):
        return Listener(self.session(), channel)
