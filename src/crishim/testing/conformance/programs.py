"""The commands that the exam runs in containers."""

import enum


class Fact(enum.StrEnum):
    """What a process can find out about itself and its container, and print as one line."""

    FOLDER = "its working directory"
    USER = "its user id"
    GROUP = "its group id"
    GROUPS = "all its group ids"
    HOSTNAME = "the host name"
    NETWORK = "its network namespace, as net:[inode]"
    IPC = "its IPC namespace, as ipc:[inode]"
    PROCESSES = "its pid namespace, as pid:[inode]"
    NO_NEW_PRIVS = "whether it can gain no privileges: 0 or 1"
    SECCOMP = "its seccomp mode: 0 or 2"
    CAPABILITIES = "its effective capabilities, in hexadecimal"
    MEMORY_LIMIT = "the memory limit of its cgroup, in bytes"
    CPU_QUOTA = "the CPU quota of its cgroup and the period, in microseconds"
    CPUS = "the CPUs that it may use, as the kernel lists them"
    HUGEPAGE_LIMIT = "the limit of its cgroup for huge pages of 2 MB, in bytes"
    OOM_SCORE = "its oom_score_adj"
    DESCRIPTORS = "how many file descriptors it has, and one more"
    TERMINAL = "whether stdout is a terminal: yes or no"


class LeftOut(Exception):
    """A check needs something that is not here; the message says what."""


def needed(argv: tuple[str, ...] | None, what: str) -> tuple[str, ...]:
    """The command, if the programs have it. Raises `LeftOut` with what they cannot do."""
    if argv is None:
        raise LeftOut(f"the programs of the exam cannot {what}")
    return argv


_SCRIPTS = {
    Fact.FOLDER: "pwd",
    Fact.USER: "id -u",
    Fact.GROUP: "id -g",
    Fact.GROUPS: "id -G",
    Fact.HOSTNAME: "hostname",
    Fact.NETWORK: "readlink /proc/self/ns/net",
    Fact.IPC: "readlink /proc/self/ns/ipc",
    Fact.PROCESSES: "readlink /proc/self/ns/pid",
    Fact.NO_NEW_PRIVS: "while read -r name value; do case $name in NoNewPrivs:) echo $value;; esac; done < /proc/self/status",
    Fact.SECCOMP: "while read -r name value; do case $name in Seccomp:) echo $value;; esac; done < /proc/self/status",
    Fact.CAPABILITIES: "while read -r name value; do case $name in CapEff:) echo $value;; esac; done < /proc/self/status",
    Fact.MEMORY_LIMIT: "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes",
    Fact.CPU_QUOTA: "cd /sys/fs/cgroup; cat cpu.max 2>&- || echo $(cat cpu/cpu.cfs_quota_us) $(cat cpu/cpu.cfs_period_us)",
    Fact.CPUS: "while read -r name value; do case $name in Cpus_allowed_list:) echo $value;; esac; done < /proc/self/status",
    Fact.HUGEPAGE_LIMIT: "cd /sys/fs/cgroup; cat hugetlb.2MB.max 2>/dev/null || cat hugetlb/hugetlb.2MB.limit_in_bytes",
    Fact.OOM_SCORE: "cat /proc/self/oom_score_adj",
    Fact.DESCRIPTORS: "set -- /proc/self/fd/*; test -e $1 && echo $#",
    Fact.TERMINAL: "if test -t 1; then echo yes; else echo no; fi",
}


class Programs:
    """The commands that the suite runs. These need a shell with the usual tools; override them for images without one.

    `ready` is what `sleeps` and `stubborn` write to stdout once they handle signals; empty if they handle them from the start.
    """

    ready = "ready"

    def prints(self, text: str) -> tuple[str, ...]:
        """Write one line to stdout and exit with 0."""
        return ("sh", "-c", f"echo {text}")

    def complains(self, text: str) -> tuple[str, ...]:
        """Write one line to stderr and exit."""
        return ("sh", "-c", f"echo {text} >&2")

    def fails(self, code: int) -> tuple[str, ...]:
        """Exit with this code."""
        return ("sh", "-c", f"exit {code}")

    def sleeps(self) -> tuple[str, ...]:
        """Print `ready`, then run until a signal, which has its usual effect even for the first process of a pid namespace."""
        return ("sh", "-c", f"trap 'exit 143' TERM; echo {self.ready}; while :; do sleep 0.05; done")

    def stubborn(self) -> tuple[str, ...] | None:
        """Print `ready`, then run and ignore SIGTERM; None if that is not possible."""
        return ("sh", "-c", f"trap '' TERM; echo {self.ready}; while :; do sleep 0.05; done")

    def copies(self) -> tuple[str, ...]:
        """Copy stdin to stdout until its end."""
        return ("cat",)

    def missing(self) -> tuple[str, ...]:
        """A program that does not exist."""
        return ("/no/such/program",)

    def prints_variable(self, variable: str) -> tuple[str, ...] | None:
        """Print the value of an environment variable; None if that is not possible."""
        return ("sh", "-c", f'echo "${variable}"')

    def ticks(self, text: str) -> tuple[str, ...] | None:
        """Print a line repeatedly, several times a second; None if that is not possible."""
        return ("sh", "-c", f"trap 'exit 143' TERM; while :; do echo {text}; sleep 0.05; done")

    def shows(self, fact: Fact) -> tuple[str, ...] | None:
        """Print a fact as one line to stdout; None where a process cannot find it out."""
        return ("sh", "-c", _SCRIPTS[fact])

    def prints_much(self, size: int) -> tuple[str, ...] | None:
        """Print one line of `size` characters; None if that is not possible."""
        script = f'text=x; while test ${{#text}} -lt {size}; do text=$text$text; done; printf "%.{size}s\\n" $text'
        return ("sh", "-c", script)

    def reads(self, path: str) -> tuple[str, ...] | None:
        """Copy a file to stdout, and fail if there is none; None if that is not possible."""
        return ("cat", path)

    def reads_after(self, event: str, path: str) -> tuple[str, ...] | None:
        """Print a line, wait until there is a file `event`, and then do as `reads`; None if that is not possible."""
        return ("sh", "-c", f"echo waiting; while ! test -e {event}; do sleep 0.05; done; cat {path}")

    def writes(self, path: str) -> tuple[str, ...] | None:
        """Write a line to a file, and exit with 0 only if that was possible; None if it never is."""
        return ("sh", "-c", f"echo written > {path}")

    def opens(self, path: str) -> tuple[str, ...] | None:
        """Open a file for reading, and exit with 0 only if that was possible; None if it never is."""
        return ("sh", "-c", f": < {path}")

    def owner(self, path: str) -> tuple[str, ...] | None:
        """Print the ids of a file's owner and group, as `0 0`; None if that is not possible."""
        return ("sh", "-c", f"set -- $(ls -nd {path}); echo $3 $4")

    def mounts(self, path: str) -> tuple[str, ...] | None:
        """Mount a file system in memory at a folder, and exit with 0 only if that was possible; None if it never is."""
        return ("mount", "-t", "tmpfs", "exam", path)

    def exhausts(self) -> tuple[str, ...] | None:
        """Use 256 MiB of memory in the first process; None if that is not possible."""
        return ("sh", "-c", f"text=xxxxxxxx; while test ${{#text}} -lt {256 << 20}; do text=$text$text; done")

    def counts(self) -> tuple[str, ...] | None:
        """Print the number of bytes of stdin when it has ended; None if that is not possible."""
        return ("wc", "-c")

    def prints_later(self, first: str, later: str, code: int) -> tuple[str, ...] | None:
        """Print a line, another one some two seconds later, and exit with `code`; None if that is not possible."""
        return ("sh", "-c", f"echo {first}; sleep 2; echo {later}; exit {code}")

    def leaves_a_child(self, text: str) -> tuple[str, ...] | None:
        """Print a line and exit while a child runs on for an hour with the same streams; None if that is not possible."""
        return ("sh", "-c", f"sleep 3600 & echo {text}")

    def serves(self, port: int, text: str) -> tuple[str, ...] | None:
        """Listen on a TCP port and write a line to its first client; None if that is not possible."""
        python = f"import socket; c = socket.create_server(('', {port})).accept()[0]; c.sendall(b'{text}' + bytes([10]))"
        return ("sh", "-c", f'echo {text} | nc -l -p {port} 2>&- || echo {text} | nc -l {port} 2>&- || python3 -c "{python}"')
