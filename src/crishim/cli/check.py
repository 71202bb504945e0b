"""`crishim check`: which needs of the configured backends this machine meets."""

import functools
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import util
from pathlib import Path
from typing import Final, TypeAlias

import click
from rich.console import Console
from rich.text import Text

from crishim import __version__, app
from crishim.cli.machine import folder_findings, node_findings
from crishim.cli.options import config_option, exit_on_error
from crishim.config import Config
from crishim.interfaces.plugin import Plugin
from crishim.interfaces.seats import Finding
from crishim.model.values import EMPTY
from crishim.plugins import PluginError, installed, load

_EXTRAS: Final = (
    ("streaming", ("h11", "wsproto"), "exec, attach and port-forward"),
    ("metrics", ("prometheus_client", "h11"), "metrics for Prometheus"),
)

NodeFindings: TypeAlias = Callable[[bool], tuple[Finding, ...]]
"""The findings of the node, with those of its image store or without."""

_NODE: Final = "node"
"""The part of the machine that crishim makes pods of, for plug-ins with `needs_node`."""


@click.command(name="check")
@config_option
def command(path: Path | None) -> None:
    """Show what this machine offers each backend, what is missing, and the command that installs it."""
    with exit_on_error():
        config = app.read_config(path)
        console = Console(highlight=False, soft_wrap=True)
        console.print(f"crishim {__version__}, Python {platform.python_version()}, {platform.system()} {platform.release()}")
        node = node_of(config)
        whole = [_print_findings(console, title, found) for title, found in findings(config, node)]
        for title, results in unused_findings(config, node):
            _print_findings(console, title, results)
        sys.exit(0 if all(whole) else 1)


def node_of(config: Config) -> NodeFindings:
    """The findings of the node, each kind of which is made once: they start programs and read files."""
    return functools.cache(lambda store: tuple(node_findings(config, store=store)))


def findings(config: Config, node: NodeFindings) -> Iterator[tuple[str, Iterable[Finding]]]:
    """The needs of serving with this configuration, with titles: crishim's own, the node's, each backend's."""
    used = _used(config)
    yield "crishim", _own_findings(config)
    if found := _shared_findings(node, used):
        yield _NODE, found
    for name in sorted(used):
        yield from _plugin_findings(config, node, name, used[name])


def unused_findings(config: Config, node: NodeFindings) -> Iterator[tuple[str, Iterable[Finding]]]:
    """The needs of the installed plug-ins that no handler uses, and of the node if one of these alone needs it."""
    used = _used(config)
    others = sorted({*installed()} - used.keys())
    if not _shared_findings(node, used) and (found := _shared_findings(node, others)):
        yield f"{_NODE} (no handler needs it)", found
    for name in others:
        yield from _plugin_findings(config, node, name, [])


def _used(config: Config) -> dict[str, list[str]]:
    """The backends that handlers name, by plug-in."""
    used: dict[str, list[str]] = {}
    for backend in config.backend_names:
        used.setdefault(config.plugin_of(backend), []).append(backend)
    return used


def _shared_findings(node: NodeFindings, names: Iterable[str]) -> tuple[Finding, ...]:
    """What the node must have for those of the plug-ins that need it; nothing if none does."""
    plugins = [plugin for plugin in map(_loaded, names) if plugin is not None and plugin.needs_node]
    return node(any(plugin.images is None for plugin in plugins)) if plugins else ()


def _loaded(name: str) -> Plugin | None:
    try:
        return load(name)
    except PluginError:
        return None  # reported as a finding


def _plugin_findings(
    config: Config, node: NodeFindings, name: str, backends: list[str]
) -> Iterator[tuple[str, Iterable[Finding]]]:
    """Titles and findings of a plug-in: one for each of the `backends` that use it, which may have options of their own."""
    try:
        plugin = load(name)
    except PluginError as error:
        yield f"backend {name}", (Finding(what="plug-in", ok=False, without=error.message),)
        return
    for backend in backends:
        yield f"backend {backend}", (*_node_needed(node, plugin), *_findings_of(plugin, config.options_of(backend)))
    if not backends:
        yield f"backend {name} (no handler uses it)", (*_node_needed(node, plugin), *_findings_of(plugin, EMPTY))


def _node_needed(node: NodeFindings, plugin: Plugin) -> Iterator[Finding]:
    """Whether the node has what a plug-in needs of it. Each need is a finding of the node, above all plug-ins, which counts."""
    if plugin.needs_node:
        lacking = [finding.what for finding in node(plugin.images is None) if finding.needed and not finding.ok]
        without = f"lacks {', '.join(lacking)}: see above"
        yield Finding(what=_NODE, ok=not lacking, needed=False, found="has what is needed: see above", without=without)


def _findings_of(plugin: Plugin, options: Mapping[str, object]) -> Iterable[Finding]:
    try:
        return list(plugin.check(options)) if plugin.check else ()
    except Exception as error:  # noqa: BLE001 - an error in one plug-in must not end the checks of the others
        return (Finding(what="check", ok=False, without=f"it has failed: {type(error).__name__}: {error}"),)


def _own_findings(config: Config) -> list[Finding]:
    """The needs of crishim itself, independent of backends."""
    findings = []
    for extra, modules, what in _EXTRAS:
        missing = [module for module in modules if util.find_spec(module) is None]
        findings.append(
            Finding(
                what=f"extra {extra}",
                ok=not missing,
                needed=False,
                found=", ".join(modules) if not missing else "",
                without=f"no {what}",
                remedy=f"{sys.executable} -m pip install 'crishim[{extra}]'",
            )
        )
    return [*findings, *folder_findings(config)]


def _print_findings(console: Console, title: str, findings: Iterable[Finding]) -> bool:
    """Print the findings; return whether every needed one is ok."""
    shown = list(findings) or [Finding(what="needs nothing", ok=True)]
    width = max(len(finding.what) for finding in shown)
    console.print(Text.assemble("\n", (title, "bold")))
    for finding in shown:
        word, style = ("ok", "green") if finding.ok else ("missing", "red") if finding.needed else ("absent", "yellow")
        note = finding.found if finding.ok else "; ".join(part for part in (finding.without, finding.remedy) if part)
        line = Text.assemble("  ", (word.ljust(8), style), finding.what.ljust(width), "  ", note)
        line.rstrip()
        console.print(line)
    return all(finding.ok or not finding.needed for finding in shown)
