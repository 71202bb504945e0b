"""The first way in: the mapping alone, with neither service nor loop."""

import subprocess
import sys

SCRIPT = """
from crishim import ContainerId, ImageId, SandboxId, SandboxSpec, resolve
from crishim.cri import pb
from crishim.cri.convert import container
from crishim.cri.convert import sandbox, sandbox_config
from crishim.model.image import ImageConfig

wire = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="pod", namespace="ns", uid="u"), log_directory="/logs")
sandbox = SandboxSpec(id=SandboxId("s"), config=sandbox_config.decode_config(wire, "config"))
request = pb.ContainerConfig(
    metadata=pb.ContainerMetadata(name="c"), image=pb.ImageSpec(image="i"), args=["--flag"], log_path="c/0.log"
)
image = ImageConfig(entrypoint=("/app",), cmd=("ignored",), env=("A=1",), working_dir="/srv", stop_signal="SIGINT")
config = container.decode_config(request, "config")
spec = resolve(config, image, sandbox, container_id=ContainerId("c"), image_id=ImageId("i"))
print(spec.argv, spec.cwd, spec.env["A"], spec.log_path, spec.stop_signal.name)
"""


def test_decode_and_resolve_are_enough() -> None:
    """A CRI request becomes a resolved spec with two functions, in a program that does nothing else."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert ("('/app', '--flag') /srv 1 /logs/c/0.log SIGINT\n", "") == (done.stdout, done.stderr)
