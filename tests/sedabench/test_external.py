"""Servers that nobody here wrote: what a TOML file may say, and what becomes of the processes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sedabench.errors import UserError
from sedabench.experiments.configure import configure
from sedabench.experiments.registry import find
from sedabench.machine.process import ChildError
from sedabench.targets.external import (
    ExternalServer,
    ExternalSpec,
    available,
    joining,
    load_external,
    start_external,
    tree_cpu_ns,
    tree_rss_bytes,
    tree_threads,
)
from sedabench.targets.external.definition import substitute
from servers.services import docroot as docroots

Define = Callable[..., ExternalSpec]

BUILT_IN = load_external()

READY_S = 60.0
"""A slow machine is not a broken server."""


def after(seconds: float) -> int:
    return time.monotonic_ns() + int(seconds * 1e9)


def announced(server: ExternalServer, ready_s: float = READY_S) -> dict[str, Any]:
    return server.next_message(after(ready_s), "get ready")


def get(message: dict[str, Any], *paths: str) -> list[tuple[int, bytes]]:
    """Status and body of each path, all on one connection."""
    connection = http.client.HTTPConnection(message["host"], message["port"], timeout=30)
    replies = []
    try:
        connection.connect()
        socket = connection.sock
        for path in paths:
            connection.request("GET", path)
            reply = connection.getresponse()
            replies.append((reply.status, reply.read()))
            assert connection.sock is socket, "the server closed a connection that was to stay"
    finally:
        connection.close()
    return replies


def toml(path: Path, text: str) -> Path:
    path.write_text(textwrap.dedent(text))
    return path


@pytest.fixture
def define(tmp_path: Path) -> Define:
    """A server named `own`, made of a Python program and further lines of TOML."""

    def make(program: str, *lines: str) -> ExternalSpec:
        (tmp_path / "program.py").write_text(textwrap.dedent(program))
        path = toml(
            tmp_path / "own.toml",
            "[server.own]\n"
            'command = ["{python}", "-u", "{here}/program.py", "{port}", "{docroot}", "{dir}"]\n'
            + "\n".join(lines),
        )
        return load_external([path])["own"]

    return make


# -- what a file may say ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[server.x]\ncomand = ["x"]', "unknown key 'comand'; did you mean 'command'?"),
        ('[servers.x]\ncommand = ["x"]', "unknown key 'servers'; did you mean 'server'?"),
        ('[server.x]\ntitle = "X"', "[server.x] has no command"),
        ("[server.x]\ncommand = []", "command is empty"),
        ('[server.x]\ncommand = "x --port {port}"', "command is a list of words"),
        ('[server.x]\ncommand = ["x", "{prot}"]', "'prot'; did you mean 'port'?"),
        ('[server.x]\ncommand = ["x"]\nservices = ["statik"]', "did you mean 'static'?"),
        ('[server.x]\ncommand = ["x"]\nservices = []', "services is empty"),
        ('[server.x]\ncommand = ["x"]\nready = "POST /"', 'ready is "tcp"'),
        ('[server.x]\ncommand = ["x"]\nready = {path = "x"}', 'ready is "tcp"'),
        ('[server.x]\ncommand = ["x"]\nready = {path = "/", stat = 1}', "did you mean 'status'?"),
        ('[server.x]\ncommand = ["x"]\nstop_signal = "SIGTRM"', "did you mean 'SIGTERM'?"),
        ('[server.x]\ncommand = ["x"]\nenvironment.A = 1', "environment is a table"),
        ('[server.x]\ncommand = ["x"]\nfiles."../a" = ""', "not a path within {dir}"),
        ('[server.x]\ncommand = ["x"]\nfiles.a = {from = "none.conf"}', "none.conf cannot be read"),
        *(
            (f'[server.x]\ncommand = ["x"]\nfiles.a = "listen {{{wrong}}};"', f"mean {right!r}?")
            for wrong, right in (
                ("prot", "port"),
                ("docrot", "docroot"),
                ("dri", "dir"),
                ("conections", "connections"),
            )
        ),
        ('[server.seda]\ncommand = ["x"]', "'seda' is an architecture of this project"),
        ('[server."a b"]\ncommand = ["x"]', "a name has no space"),
        ("[server.x", "is no TOML"),
        ("", "defines no server"),
    ],
)
def test_what_a_file_cannot_say_is_told_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = toml(tmp_path / "mine.toml", text)
    with pytest.raises(UserError) as caught:
        load_external([path])
    message = str(caught.value)
    assert says in message
    assert "mine.toml" in message
    assert "\n" not in message


def test_a_file_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.toml cannot be read: No such file"):
        load_external([tmp_path / "none.toml"])


def test_two_files_cannot_define_the_same_server(tmp_path: Path) -> None:
    text = '[server.x]\ncommand = ["x"]'
    with pytest.raises(UserError, match=r"both define \[server\.x\]"):
        load_external([toml(tmp_path / "a.toml", text), toml(tmp_path / "b.toml", text)])


def test_a_persons_definition_replaces_ours(tmp_path: Path) -> None:
    path = toml(tmp_path / "a.toml", '[server.nginx]\ncommand = ["my-nginx"]')
    specs = load_external([path])
    assert specs["nginx"].command == ("my-nginx",)
    assert "asyncio" in specs


def test_what_is_not_installed_is_told_with_its_package(tmp_path: Path) -> None:
    path = toml(
        tmp_path / "a.toml",
        '[server.x]\ncommand = ["no-such-program"]\npackage = "x-server"',
    )
    specs = load_external([path])
    assert "x" not in available(specs)
    with pytest.raises(UserError, match=r"no program 'no-such-program'.* Debian package x-server"):
        start_external(specs["x"], tmp_path)


def test_a_file_may_have_braces_of_its_own(tmp_path: Path) -> None:
    text = "a {host} {path} {remote_port} {http.error} ${prot} {0} {} { prot } {{"
    path = toml(tmp_path / "a.toml", f"[server.x]\ncommand = ['x']\nfiles.a = '{text}'")
    assert load_external([path])["x"].files == {"a": text}


def test_who_joins_without_being_named(tmp_path: Path) -> None:
    path = toml(
        tmp_path / "a.toml",
        """
        [server.static]
        command = ["no-such-program"]
        [server.both]
        command = ["true"]
        services = ["dynamic", "static"]
        """,
    )
    specs = load_external([path])
    assert [spec.label for spec in joining(specs, "dynamic")] == ["both"]
    assert [spec.label for spec in joining(specs, "static", {"asyncio"})] == [
        "asyncio", "static", "both",
    ]  # fmt: skip
    assert {spec.label for spec in joining(specs, "static")} >= {"asyncio", "static", "both"}


def test_servers_that_are_not_ours_join_overload_where_they_offer_the_workload(
    tmp_path: Path,
) -> None:
    path = toml(tmp_path / "a.toml", "[server.own]\ncommand = ['true']\nservices = ['dynamic']")
    installed = available(BUILT_IN)
    ours = ["threaded", "eventloop", "seda"]

    def labels(workload: str, quick: bool, *definitions: Path) -> list[str]:
        settings = {"workload": workload}
        config = configure(find("overload"), settings, quick=quick, definitions=definitions)
        return [spec.label for spec in config.servers]

    for quick, also in (
        (True, ["nginx", "apache-event"]),
        (False, ["nginx", "apache-prefork", "apache-worker", "apache-event"]),
    ):
        also = [label for label in also if label in installed]
        assert labels("static", quick) == [*ours, *also] == labels("static", quick, path)
        assert labels("dynamic", quick) == ours
        assert labels("dynamic", quick, path) == [*ours, "own"]


@given(text=st.text(alphabet=st.sampled_from("{}port $\n;")), port=st.integers(1, 65_535))
def test_only_placeholders_are_replaced(text: str, port: int) -> None:
    replaced = substitute(text, {"port": port})
    assert replaced == text.replace("{port}", str(port))


# -- processes ----------------------------------------------------------------------------

FILE_SERVER = """
    import functools, http.server, sys
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[2])
    handler.func.protocol_version = "HTTP/1.1"
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), handler).serve_forever()
"""


def test_a_server_of_ones_own_is_started_answers_and_is_gone_afterwards(
    define: Define, tmp_path: Path
) -> None:
    (tmp_path / "page").write_bytes(b"hello")
    spec = define(FILE_SERVER, 'ready = "GET /page"', 'services = ["static"]')
    core = min(os.sched_getaffinity(0))
    with start_external(spec, tmp_path, [core]) as server:
        message = announced(server)
        assert get(message, "/page") == [(200, b"hello")]
        own = psutil.Process(message["pid"])
        assert own.cpu_affinity() == [core]
        assert tree_cpu_ns(message["pid"]) > 0
        assert tree_rss_bytes(message["pid"]) > 1 << 20
        assert tree_threads(message["pid"]) >= 1
    assert server.returncode == 0
    assert not own.is_running()
    with pytest.raises(ChildError, match="ended"):
        tree_cpu_ns(message["pid"])


NODE_SERVER = """
    const fs = require("fs"), http = require("http"), path = require("path");
    http.createServer((request, response) => {
      fs.readFile(path.join(process.env.ROOT, request.url), (error, body) => {
        response.writeHead(error ? 404 : 200, { "Content-Length": error ? 0 : body.length });
        response.end(body);
      });
    }).listen(process.env.PORT, "127.0.0.1", () => console.log(`I am ${process.argv[2]}`));
"""


def test_a_server_of_ones_own_may_be_in_another_language(tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(b"hello")
    (tmp_path / "server.js").write_text(NODE_SERVER)
    path = toml(
        tmp_path / "own.toml",
        """
        [server.own]
        command = ["node", "{here}/server.js", "mine"]
        environment = { PORT = "{port}", ROOT = "{docroot}" }
        ready = "GET /page"
        """,
    )
    spec = load_external([path])["own"]
    if reason := spec.missing():
        pytest.skip(reason)
    with start_external(spec, tmp_path) as server:
        message = announced(server)
        assert get(message, "/page", "/none", "/page")[1:] == [(404, b""), (200, b"hello")]
        os.kill(message["pid"], signal.SIGKILL)
        with pytest.raises(ChildError, match=r"by SIGKILL; its last output: I am mine$"):
            announced(server)


def test_the_announcement_has_what_our_own_servers_say(define: Define, tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(b"")
    own = subprocess.Popen(
        [sys.executable, "-m", "servers", "eventloop", "--service", "web", "--port", "0"],
        stdout=subprocess.PIPE,
    )
    with own, start_external(define(FILE_SERVER), tmp_path) as server:
        assert own.stdout is not None
        ours = json.loads(own.stdout.readline())
        own.terminate()
        theirs = announced(server)
    assert list(theirs) == list(ours)
    assert (theirs["architecture"], theirs["service"]) == ("external", "static")
    assert theirs["admin_port"] is None


def test_files_are_written_where_dir_says_with_their_own_braces(
    define: Define, tmp_path: Path
) -> None:
    program = """
        import pathlib, sys
        sys.exit(pathlib.Path(sys.argv[3], "sub/a.conf").read_text().strip())
    """
    spec = define(program, "files.\"sub/a.conf\" = 'location / { root ${x}; listen {cores}; }'")
    with (
        start_external(spec, tmp_path, [0]) as server,
        pytest.raises(ChildError, match=r"location / \{ root \$\{x\}; listen 1; \}"),
    ):
        announced(server)


def test_a_command_that_dies_at_once_shows_its_last_lines(define: Define, tmp_path: Path) -> None:
    spec = define(
        "import sys\nfor n in range(9): print('line', n, end=' \\n\\n')\nsys.exit('see the manual')"
    )
    words = r"line 5 / line 6 / line 7 / line 8 / see the manual"
    with (
        start_external(spec, tmp_path) as server,
        pytest.raises(ChildError, match=f"^own ended with exit status 1: {words}$"),
    ):
        announced(server)


def test_a_command_that_is_killed_says_by_what(define: Define, tmp_path: Path) -> None:
    spec = define("import os; print('so far', end='', flush=True); os.kill(os.getpid(), 9)")
    with (
        start_external(spec, tmp_path) as server,
        pytest.raises(ChildError, match=r"was killed by SIGKILL; its last output: so far$"),
    ):
        announced(server)


def test_a_server_that_never_gets_ready_shows_its_last_lines(
    define: Define, tmp_path: Path
) -> None:
    program = """
        import pathlib, sys, time
        print("reading the settings\\nwaiting")
        pathlib.Path(sys.argv[2], "said").touch()
        time.sleep(600)
    """
    with start_external(define(program), tmp_path) as server:
        wait_for(lambda: (tmp_path / "said").exists())
        with pytest.raises(
            ChildError,
            match=r"^own did not get ready in time: reading the settings / waiting$",
        ):
            announced(server, ready_s=0.1)


def test_an_answer_that_time_will_not_cure_is_told_at_once(define: Define, tmp_path: Path) -> None:
    spec = define(FILE_SERVER, 'ready = "GET /nowhere"')
    with (
        start_external(spec, tmp_path) as server,
        pytest.raises(ChildError, match=r"answered 404 to GET /nowhere; its last output: .*404"),
    ):
        announced(server)


# Answers 503 for a while and then 200, logs each, and ends when it is told to.
SLOW_START = """
    import http.server, os, pathlib, sys
    class Handler(http.server.BaseHTTPRequestHandler):
        asked = 0
        def do_GET(self):
            if self.path == "/end":
                os._exit(3)
            Handler.asked += 1
            pathlib.Path(sys.argv[2], f"asked{Handler.asked}").touch()
            self.send_response(200 if Handler.asked > PATIENCE else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()
    print("no database", flush=True)
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_an_access_log_does_not_hide_why_a_server_is_not_ready(
    define: Define, tmp_path: Path
) -> None:
    spec = define(SLOW_START.replace("PATIENCE", "10**9"), 'ready = "GET /healthz"')
    with start_external(spec, tmp_path) as server:
        wait_for(lambda: (tmp_path / "asked3").exists())
        with pytest.raises(
            ChildError,
            match=r"in time: answers 503 to GET /healthz; its last output: no database$",
        ):
            announced(server, ready_s=0.1)


def test_a_server_that_was_slow_to_get_ready_is_not_blamed_for_it_later(
    define: Define, tmp_path: Path
) -> None:
    spec = define(SLOW_START.replace("PATIENCE", "2"), 'ready = "GET /healthz"')
    with start_external(spec, tmp_path) as server:
        message = announced(server)
        with pytest.raises((OSError, http.client.HTTPException)):
            get(message, "/end")
        with pytest.raises(ChildError, match=r"^own ended with exit status 3: no database$"):
            announced(server)


def test_a_server_that_goes_to_the_background_is_told_and_does_not_stay(
    define: Define, tmp_path: Path
) -> None:
    program = """
        import os, pathlib, sys, time
        if os.fork():
            os._exit(0)
        os.setsid()
        pathlib.Path(sys.argv[2], "pid").write_text(str(os.getpid()))
        time.sleep(600)
    """
    with (
        start_external(define(program), tmp_path) as server,
        pytest.raises(ChildError, match="went to the background"),
    ):
        announced(server)
    told = tmp_path / "pid"
    if told.exists() and (pid := told.read_text()):  # else it was gone before it could say so
        assert not psutil.pid_exists(int(pid))


# Two workers in sessions of their own: no signal to a group reaches them.
FORKING = """
    import os, pathlib, signal, socket, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    for worker in range(2):
        if not os.fork():
            os.setsid()
            sum(range(2_000_000))
            break
    time.sleep(600)
"""


def test_workers_are_counted_and_nothing_of_the_tree_stays(define: Define, tmp_path: Path) -> None:
    with start_external(define(FORKING), tmp_path) as server:
        pid = announced(server)["pid"]
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        assert len(family) == 3
        assert tree_threads(pid) == 3
        before_ns = tree_cpu_ns(pid)
        alone = psutil.Process(pid).cpu_times()
        assert before_ns > (alone.user + alone.system) * 1e9
        family[1].kill()
        assert tree_cpu_ns(pid) > 0
    assert not any(process.is_running() for process in family)


def test_nothing_stays_when_the_driver_is_killed(define: Define, tmp_path: Path) -> None:
    define(FORKING)
    driver = f"""
import sys, time
from pathlib import Path
from sedabench.targets.external import load_external, start_external
spec = load_external([Path({str(tmp_path / "own.toml")!r})])["own"]
server = start_external(spec, Path({str(tmp_path)!r}))
print(server.next_message(time.monotonic_ns() + 60 * 10**9, "get ready")["pid"], flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        child.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(process.is_running() for process in family))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- the definitions that come with the project -------------------------------------------


def test_the_servers_of_the_project_are_defined() -> None:
    assert set(BUILT_IN) == {
        "nginx", "apache-prefork", "apache-worker", "apache-event", "asyncio", "node",
    }  # fmt: skip
    assert all("static" in spec.services for spec in BUILT_IN.values())
    assert "asyncio" in available(BUILT_IN, "static")
    assert not available(BUILT_IN, "burst")


@pytest.fixture(scope="module")
def docroot() -> Iterator[Path]:
    """A document root that others may read: root's httpd becomes another user."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = Path(folder, "docroot")
        docroots.generate(root, docroots.DIRECTORY_BYTES, seed=1)
        yield root


@pytest.mark.parametrize("label", sorted(BUILT_IN))
def test_every_server_of_the_project_serves_a_document_root(label: str, docroot: Path) -> None:
    spec = BUILT_IN[label]
    if reason := spec.missing():
        pytest.skip(reason)
    assert spec.version()
    paths = ["/docroot.json", "/dir00000/class0_0", "/dir00000/class2_8", "/dir00000/class3_8"]
    with start_external(
        spec, docroot, sorted(os.sched_getaffinity(0))[:1], connections=4
    ) as server:
        message = announced(server)
        replies = get(message, *paths, "/nowhere", "/dir00000/class1_0?x=1", paths[0])
        family = psutil.Process(message["pid"]).children(recursive=True)
    for path, (status, body) in zip(paths, replies, strict=False):
        assert (status, body) == (200, (docroot / path[1:]).read_bytes())
    assert [status for status, _ in replies[4:]] == [404, 200, 200]
    assert not any(process.is_running() for process in family)


@pytest.mark.parametrize("label", ["asyncio", "node"])
def test_our_small_servers_do_not_leave_the_root(label: str, docroot: Path) -> None:
    spec = BUILT_IN[label]
    if reason := spec.missing():
        pytest.skip(reason)
    (docroot.parent / "secret").write_bytes(b"secret")
    with start_external(spec, docroot) as server:
        replies = get(announced(server), "/../secret", "/%2e%2e/secret", "/")
    assert [status for status, _ in replies] == [404, 404, 404]
