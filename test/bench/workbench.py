"""The private servers of a benchmark run, and the two kinds of publisher it measures.

Everything lives in one temporary directory and ends with the `with Workbench()` block.
"""

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
START_SECONDS = 30
ANSWER_SECONDS = 10
EXIT_SECONDS = 5
DRAIN_SECONDS = 300
# How often a stream is asked what it holds while that is timed.
POLL_SECONDS = 0.005
# psql prints this after each command's output, so that we know where it ends.
END_MARK = "-- end of output --"


class Failure(Exception):
    """Something that ends the benchmark with a message and no traceback."""


class LeftOut(Failure):
    """What a row needs is not here: nothing has failed."""


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
    """A nats-server with JetStream on a port that it chooses itself; config: more of its configuration."""

    def __init__(self, directory, config="", name="bench", jetstream="", ca_file=None):
        binary = os.environ.get("NATS_SERVER") or program("nats-server", "install the package nats-server")
        directory.mkdir()
        self.name = name
        self.ca_file = ca_file
        self.version = output_of([binary, "--version"]).split()[-1].lstrip("v")
        self._log = directory / "log"
        path = directory / "conf"
        path.write_text(f"""
            server_name: "{name}"
            listen: "127.0.0.1:-1"
            ports_file_dir: "{directory}"
            log_file: "{self._log}"
            jetstream {{ store_dir: "{directory / 'store'}", {jetstream} }}
            {config}
        """)
        # A session of its own, so that Ctrl-C reaches the driver alone, which then stops it.
        self.process = subprocess.Popen([binary, "-c", str(path)], start_new_session=True,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._ports = directory / f"{Path(binary).name}_{self.process.pid}.ports"

    def wait_until_ready(self):
        # The file of its ports is there before it has anything in it.
        wait_for(lambda: self.process.poll() is not None
                 or self._ports.exists() and self._ports.read_text() and "Server is ready" in self._log.read_text(),
                 "nats-server did not start")
        if self.process.poll() is not None:
            log = self._log.read_text() if self._log.exists() else "it says nothing"
            raise Failure(f"nats-server did not start: {log.strip()}")
        port = json.loads(self._ports.read_text())["nats"][0].rpartition(":")[2]
        # A certificate has the name.
        self.url = f"tls://localhost:{port}" if self.ca_file else f"nats://127.0.0.1:{port}"

    def usage(self):
        return usage_of(self.process.pid)

    def resident_mb(self):
        return int(status_of(Path(f"/proc/{self.process.pid}"))["VmRSS"].split()[0]) / 1024

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class NatsCluster:
    """Three servers, each connected to the others; clients connect to the first."""

    def __init__(self, directory):
        directory.mkdir()
        self._servers = []
        names = ("n1", "n2", "n3")
        ports = free_ports(len(names))
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
        try:
            for name, port in zip(names, ports):
                self._servers.append(NatsServer(
                    directory / name, name=name,
                    config=f'cluster {{ name: "bench", listen: "127.0.0.1:{port}", routes: [{routes}] }}'))
        except BaseException:
            self.stop()
            raise
        first = self._servers[0]
        self.name, self.version, self.ca_file = first.name, first.version, first.ca_file

    def wait_until_ready(self):
        for server in self._servers:
            server.wait_until_ready()
        self.url = self._servers[0].url
        wait_for(lambda: "error" not in ask(self, "STREAM.NAMES"), "the cluster has no leader")

    def usage(self):
        return tuple(map(sum, zip(*(server.usage() for server in self._servers))))

    def stop(self):
        for server in self._servers:
            server.stop()


def tls_server(directory):
    """A server that asks for TLS, with a certificate that is its own authority."""
    directory.mkdir()
    certificate, key = directory / "certificate", directory / "key"
    output_of([program("openssl", "install the package openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt",
               "ec_paramgen_curve:prime256v1", "-nodes", "-days", 2, "-subj", "/CN=localhost", "-addext",
               "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate])
    return NatsServer(directory / "server", f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}', ca_file=certificate)


def free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


class NatsClient:
    """A plain connection to a nats-server; one thread at a time reads from it. It waits so many seconds for what it reads."""

    def __init__(self, server, seconds=None):
        address = urlsplit(server.url)
        self._socket = socket.create_connection(("127.0.0.1", address.port))
        self._socket.settimeout(seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The server says nothing more before TLS, so the buffer holds nothing of that.
        self._file = self._socket.makefile("rb")
        self._file.readline()
        if server.ca_file:
            self._socket = ssl.create_default_context(cafile=server.ca_file).wrap_socket(
                self._socket, server_hostname=address.hostname)
            self._file = self._socket.makefile("rb")
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

    def request(self, subject, payload=b""):
        self._send(b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), self._inbox.encode(), len(payload), payload))
        return self.next_message()

    def api(self, call, **request):
        """The answer of JetStream's API."""
        return json.loads(self.request(f"$JS.API.{call}", json.dumps(request).encode() if request else b""))

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


def ask(server, call):
    """The answer of JetStream's API, or an error of our own: nobody answers as long as nobody leads."""
    try:
        with NatsClient(server, seconds=1) as client:
            return client.api(call)
    except TimeoutError:
        return {"error": {"description": "nobody answers"}}


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


def with_settings(settings):
    """The environment of a client program: settings of nats_publish, by their short names."""
    options = " ".join(f"-c nats_publish.{name}={value}" for name, value in settings.items())
    return {**os.environ, "PGOPTIONS": options, "LC_ALL": "C"}


class Session:
    """One psql and its backend, kept for a run."""

    def __init__(self, cluster, settings):
        self._errors = tempfile.TemporaryFile("w+")
        self._psql = subprocess.Popen(
            cluster.client("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env=with_settings(settings))
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
        return memory_of(self.pid)


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


def pgbench_log(directory):
    """The words of each line of all its threads' logs."""
    return [line.split() for log in Path(directory).glob("log.*") for line in log.read_text().splitlines()]


def memory_of(pid):
    """Resident size, its peak, and proportional size in kB, and the number of threads."""
    rollup = keyed(Path(f"/proc/{pid}/smaps_rollup"))
    status = status_of(Path(f"/proc/{pid}"))
    return {"rss_kb": int(rollup["Rss"].split()[0]), "pss_kb": int(rollup["Pss"].split()[0]),
            "peak_kb": int(status["VmHWM"].split()[0]), "threads": int(status["Threads"])}


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
        self.stream = {}
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
        self.baseline_program = self._compile_baseline()
        self.nats = NatsServer(self.directory / "nats")
        self.nats.wait_until_ready()
        self.cluster = Cluster(self.directory / "pg")
        # Preloaded for the relay, which runs only where a row asks for it.
        self.cluster.start({"nats_publish.url": self.nats.url, "shared_preload_libraries": "nats_publish",
                            "max_connections": 1100})
        with self.session() as session:
            session.run("CREATE EXTENSION nats_publish;")
            session.run(f"\\i {HERE}/bench.sql")
        self.libnats = self.baseline("async", count=1)["libnats"]

    def _compile_baseline(self):
        try:
            flags = output_of(["pkg-config", "--cflags", "--libs", "libnats"]).split()
        except Failure:
            flags = ["-lnats"]
        compiled = self.directory / "baseline"
        output_of([os.environ.get("CC") or "cc", "-std=gnu99", "-O2", "-o", compiled, HERE / "baseline.c", *flags])
        return compiled

    def scaled(self, count):
        """A row's number of messages: less of it when the bench is only tried."""
        return max(count // self._divisor, min(count, 100))

    def seconds(self, wanted):
        """How long a row measures that is not of a number of messages."""
        return self._duration or max(wanted // self._divisor, 2)

    def session(self, **settings):
        """settings: those of nats_publish, by their short names."""
        return Session(self.cluster, settings)

    @contextmanager
    def servers(self, start, **stream):
        """Other servers, in place of the one of the other rows; start(directory) makes them, stream is what its configuration
        has besides."""
        usual = self.nats, self.stream
        with tempfile.TemporaryDirectory(dir=self.directory) as directory:
            os.chmod(directory, 0o755)
            server = start(Path(directory) / "servers")
            try:
                server.wait_until_ready()
                self.nats, self.stream = server, stream
                self._publish_there(f"SET nats_publish.url = '{server.url}'",
                                    f"SET nats_publish.tls_ca_file = '{server.ca_file or ''}'")
                yield
            finally:
                self.nats, self.stream = usual
                self._publish_there("RESET nats_publish.url", "RESET nats_publish.tls_ca_file")
                server.stop()

    def _publish_there(self, *changes):
        with self.session() as session:
            self._configure(session, changes)

        def is_known():
            with self.session() as session:
                return session.value("SHOW nats_publish.url") == self.nats.url
        wait_for(is_known, "PostgreSQL did not read its configuration")

    def api_client(self):
        return NatsClient(self.nats, seconds=ANSWER_SECONDS)

    def new_stream(self):
        with self.api_client() as client:
            client.api("STREAM.DELETE.BENCH")
            config = {"name": "BENCH", "subjects": ["bench.>"], "storage": "file", "num_replicas": 1, **self.stream}
            # A cluster that has just started does not know its servers yet.
            answer = {}

            def made():
                answer.update(error=None)
                answer.update(client.api("STREAM.CREATE.BENCH", **config))
                return not answer["error"]
            try:
                wait_for(made, "no stream was made")
            except Failure:
                raise Failure(f"no stream was made: {answer['error']['description']}") from None
        if config["num_replicas"] > 1:
            self._lead_from_here()

    def _lead_from_here(self):
        """The server to which everybody connects leads the stream: another one would cost a step more."""
        def leads():
            leader = ask(self.nats, "STREAM.INFO.BENCH").get("cluster", {}).get("leader")
            if leader and leader != self.nats.name:
                ask(self.nats, "STREAM.LEADER.STEPDOWN.BENCH")
            return leader == self.nats.name
        wait_for(leads, "the stream is not led by the server of the clients")

    def stored(self):
        with self.api_client() as client:
            return client.api("STREAM.INFO.BENCH")["state"]["messages"]

    def check_stored(self, expected):
        """A rate counts only when every message is in the stream."""
        stored = self.stored()
        if stored != expected:
            raise Failure(f"the stream holds {stored} messages, not {expected}")

    def wait_until_stored(self, expected):
        """Asks the stream all the time, so that the caller can take the time."""
        deadline = time.monotonic() + DRAIN_SECONDS
        with self.api_client() as client:
            while True:
                stored = client.api("STREAM.INFO.BENCH")["state"]["messages"]
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
    def wal_level_logical(self, work_mem="64MB"):
        with self.session() as session:
            session.run(f"ALTER SYSTEM SET wal_level = logical;\nALTER SYSTEM SET logical_decoding_work_mem = '{work_mem}';")
        self.cluster.restart()
        yield
        with self.session() as session:
            session.run("ALTER SYSTEM RESET wal_level;\nALTER SYSTEM RESET logical_decoding_work_mem;")
        self.cluster.restart()

    @contextmanager
    def wal_relay(self, work_mem="64MB", **settings):
        """A relay of the WAL that has just started, with wal_level = logical; work_mem: as logical_decoding_work_mem; settings: as
        those of relay()."""
        with self.wal_level_logical(work_mem), self.relay(**settings) as relay:
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
        return self.measured(self._baseline_command(mode, count=count, **keys), count)

    def measured(self, command, count):
        """What a program says that has published so many messages to a new stream."""
        self.new_stream()
        line = output_of(command)
        self.check_stored(count)
        pairs = (word.partition("=") for word in line.split())
        return {key: value if key == "libnats" else float(value) for key, _, value in pairs}

    def publishing_beside(self, publishers, rate, seconds):
        """Plain-C programs that publish at this rate together, each message with an id and waited for."""
        each = max(rate // publishers, 1)
        command = self._baseline_command("evloop_hdr", count=each * seconds, batch=1, rate=each)
        return Beside([subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(publishers)],
                      each * seconds * publishers)

    def _baseline_command(self, mode, **keys):
        if self.nats.ca_file:
            keys["ca"] = self.nats.ca_file
        return [str(self.baseline_program), self.nats.url, mode, *(f"{key}={value}" for key, value in keys.items())]

    def pgbench(self, script, transactions, **settings):
        """Latencies in µs of a script's transactions, by one client."""
        with tempfile.TemporaryDirectory(dir=self.directory) as directory:
            output_of(self._pgbench_command(directory, script, "-c", 1, "-t", transactions), env=with_settings(settings))
            return sorted(float(words[2]) for words in pgbench_log(directory))

    def pgbench_in_turn(self, script, clients, rate, each, **settings):
        """A script, so often by each of the clients, in turn, at the rate of all together: (client, second of its end, µs) of each
        transaction, in their order."""
        with tempfile.TemporaryDirectory(dir=self.directory) as directory:
            output_of(self._pgbench_command(directory, script, "-c", clients, "-j", 2, "-R", rate, "-t", each),
                      env=with_settings(settings))
            # Its times begin when a transaction was to begin: the last word is how late it did.
            ended = sorted((int(words[4]) + int(words[5]) / 1e6, int(words[0]), float(words[2]) - float(words[6]))
                           for words in pgbench_log(directory))
        return [(client, at - ended[0][0], us) for at, client, us in ended]

    def pgbench_held(self, script, clients, look, **settings):
        """What look(pids of the backends) returns when each of the clients has run a script, and is held behind it."""
        with tempfile.TemporaryDirectory(dir=self.directory) as directory, self.session() as session:
            session.run("SELECT pg_advisory_lock(1);")
            process = subprocess.Popen(
                self._pgbench_command(directory, f"{script}\nSELECT pg_advisory_lock_shared(1);\n", "-c", clients, "-t", 1),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=with_settings(settings))
            try:
                seen = look(self._held_backends(process, session, clients))
                session.run("SELECT pg_advisory_unlock(1);")
                process.wait(START_SECONDS)
            finally:
                process.kill()
                process.wait()
            wait_for(lambda: session.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'") == "0",
                     "pgbench's backends did not end")
        return seen

    @staticmethod
    def _held_backends(process, session, clients):
        pids = []

        def are_held():
            pids[:] = map(int, session.run("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted;"))
            if process.poll() is not None:
                raise Failure("pgbench failed")
            return len(pids) == clients
        wait_for(are_held, "not all of pgbench's clients ran their script", DRAIN_SECONDS)
        return pids

    def _pgbench_command(self, directory, script, *arguments):
        """It logs each transaction there."""
        path = Path(directory) / "script.sql"
        path.write_text(script)
        return self.cluster.client("pgbench", "-n", *arguments, "-f", path, "-l", "--log-prefix",
                                   Path(directory) / "log") + ["postgres"]

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
