"""Others' programs: those of others/, compiled or given their packages in the temporary directory of the run."""

import os
import shutil
import subprocess
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from workbench import HERE, Failure, output_of, usage_of

OTHERS = HERE / "others"
GOPATH = Path("/usr/share/gocode")


@lru_cache(maxsize=None)
def built_go(directory):
    """Its path; None if Go or nats.go is not here."""
    if not shutil.which("go") or not (GOPATH / "src/github.com/nats-io/nats.go").is_dir():
        return None
    built = directory / "publish_go"
    output_of(["go", "build", "-o", built, OTHERS / "publish.go"], cwd=directory, env={
        **os.environ, "GO111MODULE": "off", "GOPATH": str(GOPATH), "GOCACHE": str(directory / "go"), "GOFLAGS": ""})
    return built


def go_program(bench):
    built = built_go(bench.directory)
    return built and [built]


@lru_cache(maxsize=None)
def node_directory(directory):
    """Where the programs are, with their packages; None if Node is not here."""
    if not shutil.which("node") or not shutil.which("npm"):
        return None
    copied = directory / "node"
    shutil.copytree(OTHERS, copied)
    output_of(["npm", "install", "--no-audit", "--no-fund", "--silent", "--cache", directory / "npm"], cwd=copied)
    return copied


def node_command(bench, name):
    copied = node_directory(bench.directory)
    return copied and ["node", copied / name]


def node_program(name):
    return lambda bench: node_command(bench, name)


class Program:
    """One that says when it is ready, and begins when it is told to."""

    def __init__(self, command):
        self._process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         text=True)
        self.session = None

    def wait_until_ready(self):
        if self._process.stdout.readline() != "ready\n":
            raise Failure("it did not become ready")

    def begin(self):
        self._process.stdin.write("begin\n")
        self._process.stdin.flush()

    def usage(self):
        """CPU in µs of the program and of its backend, which may not be there yet."""
        pids = self.session.run("SELECT pid FROM pg_stat_activity WHERE application_name = 'bench_other';")
        return sum(usage_of(pid)[0] for pid in (self._process.pid, *map(int, pids)))

    def wait_for_state(self, *_):
        """It has none."""

    def stop(self):
        self._process.terminate()
        self._process.communicate()


@contextmanager
def running_node(bench, name, *arguments):
    """A Program, or None if Node is not here."""
    command = node_command(bench, name)
    if not command:
        yield None
        return
    program = Program([*command, *arguments])
    try:
        program.wait_until_ready()
        yield program
    finally:
        program.stop()
