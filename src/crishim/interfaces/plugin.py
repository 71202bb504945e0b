"""The plug-in: how crishim gets a backend out of a package of somebody else.

A module of the package holds one value, `plugin = Plugin(build=MyBackend)`, and an entry point of the group `crishim.backends`
names it: `mine = "my_package.my_module:plugin"`. In `crishim.toml` the backend is then called `mine`. Everywhere that `mine`
can stand, `my_package.my_module:plugin` can, without an installation: in `crishim.toml`, for `crishim play --backend`,
`crishim coverage` and `pytest --crishim-backend`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from attrs.validators import instance_of, is_callable, optional

from crishim.interfaces.backend import Backend, BackendContext
from crishim.interfaces.seats import Finding, ImageService
from crishim.model.features import Feature
from crishim.model.values import EMPTY, FrozenDict, frozen


def _frozen(items: Mapping[str, Any]) -> FrozenDict[str, Any]:
    return FrozenDict(items)


@attrs.frozen(kw_only=True)
class Plugin:
    """What a package offers: a backend, and what crishim needs to know of it before there is one.

    Only `build` is required. A field of a wrong type raises `TypeError` when the value is made: the module cannot be imported
    then, and whatever wanted the plug-in fails with its name and the reason.
    """

    build: Callable[[BackendContext], Backend] = attrs.field(validator=is_callable())
    """Makes the backend; a class whose constructor takes the context will do.

    Called by `crishim serve` and `crishim play` once for each backend that a handler names, before the socket is opened, and by
    `crishim coverage` and the exam with folders of their own. The engine need not be there yet: that is for `Backend.probe`.
    Raises `InvalidArgument` naming an option. Whatever it raises ends the start, with the backend's name.
    """

    images: Callable[[BackendContext], ImageService] | None = attrs.field(default=None, validator=optional(is_callable()))
    """Makes the image service of the handlers with this backend.

    Called before `build`, with the same context; it may raise the same. Without it the handlers have the node's image store
    where `needs_node` is set, else the default handler's images; where there are none either, PullImage is UNIMPLEMENTED and a
    container's image is taken as it is named.
    """

    check: Callable[[Mapping[str, Any]], Iterable[Finding]] | None = attrs.field(
        default=None, validator=optional(is_callable())
    )
    """What the machine has of what the backend needs, for `crishim check`.

    Called with the options of each backend that a handler names, and with none for a plug-in that no handler uses. It looks at
    the machine and changes nothing. What is missing is a `Finding`; what it raises is shown as a failure of this check alone.
    """

    ignores: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    """Fields of CRI that the backend takes and does not use, with the reason, by the names that `crishim coverage` prints.

    An example: `{"PodSandboxConfig.dns_config": "the machine's resolver is used"}`. Read by `crishim coverage` alone, which
    raises `InvalidArgument` for a name that is no field. A field that is neither here nor refused is reported as supported.
    """

    supported: frozenset[Feature] | None = attrs.field(default=None, validator=optional(instance_of(frozenset)))
    """What the backend supports with its default options, the newest engine and a kernel of today.

    `crishim coverage --markdown` takes this in place of `BackendInfo.supported`, so that the table is the same on every
    machine, and `crishim coverage` takes it where `Backend.probe` fails. Without it the backend is asked, and must be there.
    """

    needs_node: bool = attrs.field(default=False, validator=instance_of(bool))
    """Whether crishim makes root file systems, namespaces and networks for the pods.

    With it `BackendContext.rootfs` and `.namespaces` are set. `crishim serve` opens the image store and reads the CNI
    configuration only where a backend in use has it set, and PortForward is dialled in the pod's network namespace.
    """

    exam: FrozenDict[str, Any] = attrs.field(default=FrozenDict(), converter=_frozen)
    """Attributes of `crishim.testing.conformance.BackendConformance`, for `pytest --crishim-backend`.

    They are the commands that the exam runs (`programs`), the backend's `options`, and known weaknesses, such as
    `{"survives_restart": False}`. An attribute that the class does not have is a usage error.
    """
