"""The laws of the house: arrows point down, thinking does no I/O, no circles, and `import crishim` is light.

`FLOORS` is the plan. A new file or room must be given its place here, or the test fails.
"""

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "crishim"

FLOORS = {
    "errors": 1,
    "linux": 1,
    "model": 1,
    "_proto": 2,
    "config": 2,
    "interfaces": 2,
    "keeper": 2,
    "lifecycle": 2,
    "logs": 2,
    "monitor": 2,
    "oci": 2,
    "plugins": 2,
    "system": 2,
    "ttrpc": 2,
    "cni": 3,
    "images": 3,
    "nri": 3,
    "pods": 3,
    "service": 3,
    "store": 3,
    "backends": 4,
    "cri": 4,
    "shimv2": 4,
    "streaming": 4,
    "coverage": 5,
    "metrics": 5,
    "play": 5,
    "recording": 5,
    "server": 5,
    "testing": 5,
    "tracing": 5,
    "app": 6,
    "worker": 6,
    "__main__": 7,
    "cli": 7,
    "__init__": 7,
}

SIDEWAYS = {
    ("linux", "errors"),
    ("model", "errors"),
    ("interfaces", "lifecycle"),
    ("logs", "interfaces"),
    ("keeper", "interfaces"),
    ("keeper", "logs"),
    ("monitor", "interfaces"),
    ("monitor", "logs"),
    ("plugins", "config"),
    ("plugins", "interfaces"),
    ("ttrpc", "_proto"),
    ("backends", "shimv2"),
    ("shimv2", "cri"),
    ("recording", "play"),
    ("recording", "server"),
    ("testing", "play"),
    ("testing", "server"),
    ("__main__", "cli"),
}
"""Arrows allowed within a floor."""

NEVER = {
    ("backends", "service"),
    ("images", "service"),
    ("cni", "service"),
    ("store", "service"),
    ("nri", "service"),
    ("pods", "service"),
    ("play", "testing"),
    ("service", "backends"),
    ("service", "images"),
    ("service", "cni"),
    ("service", "store"),
    ("lifecycle", "interfaces"),
}
"""Arrows that no floor makes right: service and adapters meet in `app` alone."""

THINKING = {"model", "errors", "interfaces", "lifecycle", "service", "cri", "config", "oci"}
PURE = {
    "backends/docker/convert.py",
    "backends/docker/observed.py",
    "backends/docker/options.py",
    "backends/docker/wire.py",
    "images/endpoints.py",
    "images/manifest.py",
    "images/reference.py",
    "images/wasm.py",
    "images/skopeo.py",
    "images/table.py",
    "streaming/channels.py",
    "streaming/events.py",
    "streaming/flow.py",
    "streaming/portforward.py",
    "streaming/spdy.py",
    "streaming/spdy_frames.py",
    "streaming/spdy_headers.py",
    "streaming/tokens.py",
    "streaming/upgrade.py",
    "streaming/websocket.py",
    "streaming/websocket_wire.py",
    "coverage/samples.py",
    "coverage/verdicts.py",
    "cni/attachment.py",
    "cni/config.py",
    "cni/results.py",
    "logs/lines.py",
    "logs/pieces.py",
    "monitor/conmon.py",
    "nri/adjustments.py",
    "nri/convert.py",
    "nri/merging.py",
    "recording/lines.py",
    "shimv2/wire/messages.py",
    "shimv2/wire/metrics.py",
    "ttrpc/connection.py",
    "ttrpc/frames.py",
    "ttrpc/status.py",
}
IMPURE_MODULES = {
    "socket",
    "subprocess",
    "ssl",
    "http",
    "grpc",
    "time",
    "datetime",
    "random",
    "secrets",
    "os",
    "pathlib",
    "threading",
}
IMPURE_MAY = {
    ("monitor/conmon.py", "pathlib"),  # names of files
    ("interfaces/backend.py", "pathlib"),  # a contract that speaks of paths does not open them
    ("interfaces/seats.py", "pathlib"),
    ("interfaces/keeper.py", "pathlib"),
    ("interfaces/oci_runtime.py", "pathlib"),
    ("logs/lines.py", "datetime"),  # the calendar, not the clock
    ("logs/pieces.py", "time"),
    ("oci/archive.py", "datetime"),
}


def sources() -> list[Path]:
    return sorted(path for path in SRC.rglob("*.py") if not path.name.endswith("_pb2.py"))


def room(path: Path) -> str:
    first = path.relative_to(SRC).parts[0]
    return first.removesuffix(".py")


def is_ours(name: str) -> bool:
    """Whether a dotted name is a module of this package."""
    path = SRC.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(path: Path, *, at_run_time: bool = False) -> set[str]:
    """The modules a file imports, wherever in it; without those for the type-checker alone if `at_run_time`."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    skipped: set[int] = set()
    if at_run_time:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                skipped.update(id(child) for child in ast.walk(node))
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in inner if is_ours(name)}
            found |= modules
            if modules != inner:
                found.add(node.module)
            if node.module == "crishim":
                found.update(f"crishim.{alias.name}" for alias in node.names)
    return found


def our_rooms(path: Path) -> set[str]:
    parts = [name.split(".") for name in imports(path, at_run_time=True)]
    return {names[1] for names in parts if names[0] == "crishim" and len(names) > 1} - {"__version__"}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(SRC)))
def test_arrows_point_down(path: Path) -> None:
    """Every import leads to a lower floor, stays in its room, or is a sideways arrow that the table names."""
    here = room(path)
    assert here in FLOORS, f"{here} has no floor"
    wrong = {
        there
        for there in our_rooms(path)
        if there != here and ((here, there) in NEVER or (FLOORS[there] >= FLOORS[here] and (here, there) not in SIDEWAYS))
    }
    assert set() == wrong


def thinking() -> list[Path]:
    return [path for path in sources() if room(path) in THINKING or str(path.relative_to(SRC)) in PURE]


@pytest.mark.parametrize("path", thinking(), ids=lambda path: str(path.relative_to(SRC)))
def test_thinking_does_no_io(path: Path) -> None:
    """Pure files import nothing that does I/O, reads the time or draws random numbers, and open nothing."""
    relative = str(path.relative_to(SRC))
    named = {module.split(".")[0] for module in imports(path)}
    assert set() == {module for module in named & IMPURE_MODULES if (relative, module) not in IMPURE_MAY}
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert [] == [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "open"]


@pytest.mark.parametrize("path", thinking(), ids=lambda path: str(path.relative_to(SRC)))
def test_thinking_needs_only_what_thinks(path: Path) -> None:
    """What thinks imports of ours only what thinks, and messages: so it is pure however far one follows its imports."""
    may = {*thinking(), SRC / "system.py"}  # the default clock of services
    files = {SRC.parent.joinpath(*name.split(".")) for name in imports(path, at_run_time=True) if is_ours(name)}
    ours = {file.with_suffix(".py") for file in files if file.is_dir() is False and not file.name.endswith("_pb2")}
    assert set() == ours - may


def module_name(path: Path) -> str:
    return ".".join(("crishim", *path.relative_to(SRC).with_suffix("").parts)).removesuffix(".__init__")


def test_no_circle() -> None:
    """No file can be reached from itself by imports at run time."""
    files = {
        "crishim." + ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): path for path in sources()
    }
    arrows = {name: {there for there in imports(path, at_run_time=True) if there in files} for name, path in files.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for there in arrows[name]:
                visit(there, (*trail, name))
            done.add(name)

    for name in files:
        visit(name, ())


STARTS_PROGRAMS = {
    "linux/children.py",
    "_proto/generate.py",  # a program of its own
    "backends/runc/holder.py",  # a program of its own
    "keeper/container.py",  # the keeper's process
    "keeper/daemon.py",
    "images/streams.py",  # in a thread, which waits for it
    "shimv2/server/launcher.py",  # a program of its own
    "play/volumes.py",  # waits for it
    "testing/suite/programs.py",  # the same
}
WAITS = {"wait", "wait3", "wait4", "waitid", "waitpid"}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(SRC)))
def test_children_have_one_owner(path: Path) -> None:
    """Programs are started, and exits collected, in `linux/children.py` alone."""
    if str(path.relative_to(SRC)) in STARTS_PROGRAMS:
        return
    attributes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
    used = {(node.value.id, node.attr) for node in attributes if isinstance(node.value, ast.Name)}
    owned = {("os", name) for name in WAITS} | {("subprocess", name) for name in ("Popen", "run", "call", "check_output")}
    owned |= {("asyncio", "create_subprocess_exec"), ("asyncio", "create_subprocess_shell")}
    assert set() == used & owned


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(SRC)))
def test_programs_are_found_in_one_way(path: Path) -> None:
    """PATH is read in `linux/programs.py` alone."""
    attributes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
    used = {(node.value.id, node.attr) for node in attributes if isinstance(node.value, ast.Name)}
    owned = {("shutil", "which"), ("os", "get_exec_path"), ("os", "execvp")}
    assert path.relative_to(SRC) == Path("linux/programs.py") or set() == used & owned


PIDFILE_MAY = {
    "backends/runc/exec.py",  # the runtime's own, read at once after its create
    "monitor/conmon.py",  # names it for the runtime that conmon runs
    "monitor/keeper.py",  # and for the one that the keeper runs
}


def test_no_pid_file_is_read() -> None:
    """The first process of a bundle is what `create` returned (`oci_runtime.FIRST_PROCESS`): no runtime's pid file is
    needed.
    """
    named = set()
    for path in sources():
        constants = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        if any(isinstance(value, str) and value.endswith("pidfile") and "conmon" not in value for value in constants):
            named.add(str(path.relative_to(SRC)))
    assert set() == named - PIDFILE_MAY


FORWARDERS = {
    "__init__.py",  # these four are modules, which import at the first use of a name
    "backends/runc/__init__.py",
    "shimv2/__init__.py",
    "testing/conformance/__init__.py",
    "testing/faults.py",  # states the capabilities of what it wraps
}


def test_nothing_is_forwarded_by_name() -> None:
    """A class that forwards another object's verbs defines them, so that they are claimed and type-checked one by one."""
    having = {
        str(path.relative_to(SRC))
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name in {"__getattr__", "__getattribute__"}
    }
    assert FORWARDERS == having


WIRE_NAMES = {"Settings"}  # SPDY's frame of that name
"""Names that another protocol gives, for something else than ours."""


def test_one_name_one_meaning() -> None:
    """No two classes of different files have one name, unless one of them is the wire's."""
    places: dict[str, list[str]] = {}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(SRC)))
    assert {} == {name: files for name, files in places.items() if len(files) > 1 and name not in WIRE_NAMES}


def is_text(node: ast.stmt) -> bool:
    """Whether a statement is a string alone, as a docstring is."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(SRC)))
def test_one_docstring_for_each_name(path: Path) -> None:
    """No string statement follows another one: tools that read docstrings of attributes see only the first."""
    bodies = [node.body for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Module | ast.ClassDef)]
    pairs = [pair for body in bodies for pair in itertools.pairwise(body)]
    assert [] == [second.lineno for first, second in pairs if is_text(first) and is_text(second)]


def test_every_room_has_a_floor() -> None:
    """The plan and the tree name the same rooms."""
    rooms = {room(path) for path in sources()}
    assert set() == rooms - FLOORS.keys()


def test_the_plan_is_the_table() -> None:
    """The architecture page draws the same floors."""
    page = (SRC.parents[1] / "docs" / "architecture.md").read_text()
    drawn = re.findall(r"^floor (\d) +(.*)$", page, re.MULTILINE)
    assert FLOORS == {name: int(floor) for floor, names in drawn for name in names.split()}


def test_follow_one_request_matches_the_code() -> None:
    """Every file that the pages on the architecture and on following a request name has the function that they name."""
    pages = [(SRC.parents[1] / "docs" / name).read_text() for name in ("architecture.md", "follow-one-request.md")]
    tables = [re.findall(r"^\|[^|]+\| `([\w/.]+)` \| `(\w+)` \|$", page, re.MULTILINE) for page in pages]
    assert all(15 < len(table) for table in tables)
    steps = [step for table in tables for step in table]
    missing = []
    for file, function in steps:
        nodes = ast.walk(ast.parse((SRC / file).read_text()))
        if function not in {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}:
            missing.append((file, function))
    assert [] == missing


@pytest.mark.parametrize(
    ("module", "rooms", "outside"),
    [
        ("streaming.spdy", {"errors", "streaming"}, {"attr", "attrs"}),
        ("streaming.websocket", {"errors", "model", "streaming"}, {"attr", "attrs", "wsproto", "h11"}),
        ("ttrpc.client", {"_proto", "errors", "ttrpc"}, {"attr", "attrs", "google"}),
        ("ttrpc.server", {"_proto", "errors", "ttrpc"}, {"attr", "attrs", "google"}),
        ("nri.plugin", {"_proto", "errors", "nri", "ttrpc"}, {"attr", "attrs", "google"}),
    ],
)
def test_a_protocol_stands_alone(module: str, rooms: set[str], outside: set[str]) -> None:
    """The protocols that are libraries of their own load nothing of the rest (docs/how-to/protocols.md)."""
    code = (
        f"import sys, crishim.{module}\n"
        "print(sorted({name.split('.')[1] for name in sys.modules if name.startswith('crishim.')}))\n"
        "outside = {name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names\n"
        "print(sorted(name for name in outside if not name.startswith('_')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours, theirs = map(ast.literal_eval, done.stdout.splitlines())
    assert (set(), set()) == (
        set(ours) - rooms,
        set(theirs) - outside - {"crishim", "typing_extensions", "sitecustomize", "usercustomize"},
    )


def test_import_is_light() -> None:
    """`import crishim` and its names load attrs and typing-extensions and nothing else from outside the standard library."""
    code = (
        "import sys, crishim\n"
        "first = set(sys.modules)\n"
        "assert not {'attr', 'attrs', 'asyncio'} & first, 'the bare import loads nothing'\n"
        "[getattr(crishim, name) for name in crishim.__all__]\n"
        "outside = {name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names\n"
        "print(sorted(name for name in outside if not name.startswith('_')))\n"
        "assert not [name for name in sys.modules if name.startswith(('google.protobuf', 'grpc'))]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    assert set(ast.literal_eval(done.stdout)) <= {
        "attr",
        "attrs",
        "crishim",
        "typing_extensions",
        "sitecustomize",
        "usercustomize",
    }


def test_files_stay_small() -> None:
    """A file over 420 lines has two subjects; those with one subject nevertheless are named here."""
    known = {"testing/fakes.py"}
    long = {str(path.relative_to(SRC)) for path in sources() if len(path.read_text().splitlines()) > 420}
    assert set() == long - known
