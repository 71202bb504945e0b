"""What the options of a handler of containerd's make of the daemon's runtime."""

from pathlib import Path

import pytest

from crishim._proto import shim_options_pb2 as options_pb
from crishim._proto import shim_runc_pb2 as runc_pb
from crishim.backends.runc.runtime import RuncRuntime
from crishim.backends.runc.shim import runc
from crishim.errors import InvalidArgument
from crishim.shimv2.server.options import RUNC, RUNTIME


def table(text: str) -> tuple[str, bytes]:
    return RUNTIME, options_pb.Options(config_body=text.encode()).SerializeToString()


def test_a_handlers_table_counts(tmp_path: Path) -> None:
    """Program, state folder and cgroup driver are those of the table, as in runc's own message."""
    make = runc(tmp_path)
    message = runc_pb.Options(binary_name="/bin/true", root="/own", systemd_cgroup=True)
    runtime = make("k8s.io", table('BinaryName = "/bin/true"\nRoot = "/own"\nSystemdCgroup = true\nIoUid = 7'))
    assert isinstance(runtime, RuncRuntime)
    assert (("/bin/true", "--root=/own/k8s.io"), True) == (runtime._command.line, runtime._command.systemd_cgroup)
    assert runtime is make("k8s.io", (RUNC, message.SerializeToString()))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (table("SystemdCgruop = true"), "options.SystemdCgruop"),
        (table("NoPivotRoot = true"), "options.NoPivotRoot"),
        (table('SystemdCgroup = "yes"'), "options.SystemdCgroup"),
        ((RUNC, runc_pb.Options(shim_cgroup="/x").SerializeToString()), "options.ShimCgroup"),
    ],
)
def test_what_is_not_done_is_refused(tmp_path: Path, options: tuple[str, bytes], field: str) -> None:
    """A key that is not known, or that we do nothing for, is refused by its name, and so is a value of another type."""
    with pytest.raises(InvalidArgument) as refused:
        runc(tmp_path)("k8s.io", options)
    assert field == refused.value.field
