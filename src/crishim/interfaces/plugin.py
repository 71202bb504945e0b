"""The plug-in value, by which crishim loads a backend from another package.

A module of the package defines `plugin = Plugin(build=MyBackend)`, and an entry point of the group `crishim.backends` names
it: `mine = "my_package.my_module:plugin"`. In `crishim.toml` the backend is then called `mine`. Without an installed entry
point, `my_package.my_module:plugin` can be written instead of `mine` in `crishim.toml`, for `crishim play --backend`, `crishim
coverage` and `pytest --crishim-backend`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from attrs.validators import instance_of, is_callable, optional

from crishim.interfaces.backend import Backend, BackendContext
from crishim.interfaces.seats import Finding, ImageService
from crishim.model.features import Feature
from crishim.model.values import FrozenDict, frozen


def _frozen(items: Mapping[str, Any]) -> FrozenDict[str, Any]:
    return FrozenDict(items)


@attrs.frozen(kw_only=True)
class Plugin:
    """A backend of a package, and what crishim needs to know about it before it is built.

    Only `build` is required. A field of a wrong type raises `TypeError` at construction: the import of the module then fails,
    and the command that loads the plug-in reports its name and the reason.
    """

    build: Callable[[BackendContext], Backend] = attrs.field(validator=is_callable())
    """Builds the backend; it may be a class whose constructor takes the context.

    Called by `crishim serve` and `crishim play` once for each backend that a handler names, before the socket is opened, and
    by `crishim coverage` and the conformance suite with folders of their own. The engine need not be running yet:
    `Backend.probe` reports that. Raises `InvalidArgument` naming an option. Any exception ends the start, and is reported with
    the backend's name.
    """

    images: Callable[[BackendContext], ImageService] | None = attrs.field(default=None, validator=optional(is_callable()))
    """Builds the image service of the handlers with this backend.

    Called before `build`, with the same context; it may raise the same. Without it the handlers use the node's image store if
    `needs_node` is set, else the default handler's image service; if there is none, PullImage is UNIMPLEMENTED and a
    container's image reference is used as its id.
    """

    check: Callable[[Mapping[str, Any]], Iterable[Finding]] | None = attrs.field(
        default=None, validator=optional(is_callable())
    )
    """Checks whether the machine has what the backend needs, for `crishim check`.

    Called with the options of each backend that a handler names, and without options for a plug-in that no handler uses. It
    must change nothing on the machine. Something missing is a `Finding`; an exception is shown as a failure of this check
    alone.
    """

    ignores: FrozenDict[str, str] | None = attrs.field(default=None, converter=attrs.converters.optional(frozen))
    """Fields of CRI that the backend accepts and does not use, with the reason, by the names that `crishim coverage` prints.

    An example: `{"PodSandboxConfig.dns_config": "the machine's resolver is used"}`. Only `crishim coverage` reads it; it
    raises `InvalidArgument` for a name that is not a field. A field that is neither here nor refused is reported as supported;
    of a plug-in without `ignores` as not stated, if no feature is behind it. An empty mapping says that nothing is ignored.
    """

    supported: frozenset[Feature] | None = attrs.field(default=None, validator=optional(instance_of(frozenset)))
    """What the backend supports with its default options, the newest engine and a kernel of today.

    `crishim coverage --markdown` takes this in place of `BackendInfo.supported`, so that the table is the same on every
    machine, and `crishim coverage` uses it if `Backend.probe` fails. Without it the backend is probed, and must be available.
    """

    needs_node: bool = attrs.field(default=False, validator=instance_of(bool))
    """Whether crishim provides root file systems, namespaces and networks for the pods.

    It then sets `BackendContext.rootfs` and `.namespaces`. `crishim serve` opens the image store and reads the CNI
    configuration only if a backend in use sets this, and PortForward is dialled in the pod's network namespace.
    """

    exam: FrozenDict[str, Any] = attrs.field(default=FrozenDict(), converter=_frozen)
    """Attributes of `crishim.testing.conformance.BackendConformance`, for `pytest --crishim-backend`.

    They are the commands that the suite runs (`programs`), the backend's `options`, and known weaknesses, such as
    `{"survives_restart": False}`. An attribute that the class does not have is a usage error.
    """
