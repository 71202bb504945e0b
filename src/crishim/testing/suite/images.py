"""The images that the suite wants, built of Debian's packages and pushed to a loopback registry.

The suite compares names, so the images keep their canonical ones; a mirror in registries.conf leads them here.
What each must hold is what its specs look for: busybox with pgrep and ipcs (Debian's static one has neither, so it is built
from Debian's source), web servers on their ports, a setuid program that prints its effective user, users and groups in image
configurations, several tags on one image.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from crishim.testing.suite.layouts import File, Folder, Link, Tree, layer, program, write_layout
from crishim.testing.suite.programs import run

E2E: Final = "registry.k8s.io/e2e-test-images"
TOOLS: Final = "gcr.io/k8s-staging-cri-tools"

NNP_SOURCE: Final = r"""
#include <stdio.h>
#include <unistd.h>
int main(void) { printf("Effective uid: %d\n", geteuid()); return 0; }
"""

PASSWD: Final = (
    "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/sh\ndefault-user:x:1000:1000::/:/bin/sh\n"
    "nobody:x:65534:65534::/:/bin/sh\n"
)
GROUP: Final = (
    "root:x:0:\nwww-data:x:33:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\nnogroup:x:65534:\n"
)

NGINX_CONF: Final = """
daemon off; error_log stderr; pid /var/run/nginx.pid; events {{ }}
http {{
  access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u;
  scgi_temp_path /tmp/s;
  server {{ listen {port}; location / {{ root /www; index index.html; }} }}
}}
"""


def busybox(cache: Path) -> Path:
    """A static busybox with all applets, built once from Debian's source and kept in the folder `cache`."""
    built = cache / "busybox"
    if not built.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as name:
            folder = Path(name)
            apt = ["apt-get", *source_lists(folder)]
            run(*apt, "update", cwd=folder)
            run(*apt, "source", "--download-only", "busybox", cwd=folder)
            (description,) = folder.glob("busybox_*.dsc")
            run("dpkg-source", "-x", description.name, "source", cwd=folder)
            source = folder / "source"
            run("make", "defconfig", cwd=source)
            config = source / ".config"
            text = config.read_text().replace("# CONFIG_STATIC is not set", "CONFIG_STATIC=y")
            config.write_text(text.replace("CONFIG_TC=y", "# CONFIG_TC is not set"))
            run("sh", "-c", "yes '' | make oldconfig", cwd=source)
            run("make", f"-j{os.cpu_count()}", "busybox", cwd=source)
            (source / "busybox").rename(built)  # at once: an interrupted copy would be used for ever
    return built


def source_lists(folder: Path, apt: Path = Path("/etc/apt")) -> list[str]:
    """Options of apt for a folder of its own with the sources of every distribution that this machine takes packages from."""
    parts, lists = folder / "parts", folder / "lists"
    parts.mkdir()
    (lists / "partial").mkdir(parents=True)
    for file in (apt / "sources.list", *(apt / "sources.list.d").glob("*")):
        if file.suffix in {".list", ".sources"} and file.exists():
            text = re.sub(r"^deb ", "deb-src ", file.read_text(), flags=re.MULTILINE)
            (parts / file.name).write_text(re.sub(r"^Types:.*$", "Types: deb-src", text, flags=re.MULTILINE))
    return ["-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={parts}", "-o", f"Dir::State::lists={lists}"]


def base(program_path: Path) -> Tree:
    """Busybox under all its names, and the files that every image has."""
    applets = run(program_path, "--list").split()
    folders = {f"/{name}": Folder() for name in ("dev", "proc", "sys", "var/run", "root", "www", "usr/bin")}
    links = {f"/bin/{name}": Link("/bin/busybox") for name in applets if name != "busybox"}
    return {
        **folders,
        "/tmp": Folder(0o1777),
        "/bin/busybox": File(program_path.read_bytes()),
        **links,
        "/etc/passwd": File(PASSWD.encode(), 0o644),
        "/etc/group": File(GROUP.encode(), 0o644),
        "/www/index.html": File(b"<html>Welcome to nginx!</html>\n", 0o644),
    }


def nginx(port: int) -> Tree:
    """Nginx on a port."""
    return {
        **program("/usr/sbin/nginx"),
        "/var/log/nginx": Folder(),
        "/var/lib/nginx": Folder(),
        "/etc/nginx.conf": File(NGINX_CONF.format(port=port).encode(), 0o644),
    }


def setuid_program(folder: Path) -> Tree:
    """A program that prints its effective user, owned by root and setuid."""
    source, binary = folder / "nnp.c", folder / "nnp"
    source.write_text(NNP_SOURCE)
    run("cc", "-static", "-o", binary, source)
    return {"/nnp": File(binary.read_bytes(), 0o4755)}


def push(registry: str, work: Path, names: list[str], layers: list[bytes], config: dict[str, Any]) -> None:
    """Push one image under some canonical names."""
    layout = Path(tempfile.mkdtemp(dir=work))
    write_layout(layout, layers, config)
    for name in names:
        _, _, path = name.partition("/")
        target = f"docker://{registry}/{path}"
        run("skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{layout}", target)
    shutil.rmtree(layout)


def push_all(registry: str, cache: Path) -> None:
    """Build and push every image of the suite to the registry `host:port`."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        root = layer(base(busybox(cache)))
        env = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        shell: dict[str, Any] = {"Cmd": ["sh"], "Env": env}
        serve_nginx = {"Cmd": ["/usr/sbin/nginx", "-c", "/etc/nginx.conf"], "Env": env}
        httpd = "echo 'AH00558: httpd: Could not determine the server name' >&2; exec httpd -f -p 80 -h /www"
        push(registry, work, [f"{E2E}/busybox:1.29-2"], [root], shell)
        push(registry, work, [f"{E2E}/nginx:1.14-2"], [root, layer(nginx(80))], serve_nginx)
        push(registry, work, [f"{TOOLS}/hostnet-nginx-amd64:latest"], [root, layer(nginx(12003))], serve_nginx)
        push(registry, work, [f"{E2E}/httpd:2.4.39-4"], [root], {"Cmd": ["sh", "-c", httpd], "Env": env})
        nnp = {"Entrypoint": ["/nnp"], "Env": env}
        push(registry, work, [f"{E2E}/nonewprivs:1.3"], [root, layer(setuid_program(work))], nnp)
        for number, name in enumerate(("1", "2", "3", "latest")):
            mark = layer({f"/mark-{number}": File(name.encode())})
            push(registry, work, [f"{TOOLS}/test-image-{name}:latest"], [root, mark], shell)
        same = [f"{TOOLS}/test-image-tags:{tag}" for tag in (1, 2, 3)]
        push(registry, work, same, [root, layer({"/t": File(b"t")})], shell)
        push(
            registry,
            work,
            [f"{TOOLS}/test-image-tag:{tag}" for tag in ("test", "all")],
            [root, layer({"/a": File(b"a")})],
            shell,
        )
        push(registry, work, [f"{TOOLS}/test-image-digest:latest"], [root, layer({"/d": File(b"d")})], shell)
        for name, user in (
            ("user-uid", "1002"),
            ("user-username", "www-data"),
            ("user-uid-group", "1003:1004"),
            ("user-username-group", "www-data:1004"),
            ("predefined-group", "1000"),
        ):
            push(
                registry,
                work,
                [f"{TOOLS}/test-image-{name}:latest"],
                [root, layer({f"/{name}": File(b"")})],
                {**shell, "User": user},
            )
        for tag in ("3.9", "3.10"):
            pause = layer({**program("/usr/bin/catatonit"), "/version": File(tag.encode())})
            push(registry, work, [f"registry.k8s.io/pause:{tag}"], [pause], {"Entrypoint": ["/usr/bin/catatonit", "-P"]})
