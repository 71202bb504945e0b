"""Composable faults around any object with async verbs: a backend, a store, a network.

backend = failing(hanging(FakeBackend(), "kill_container"), "start_sandbox", at=2)
"""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast

from crishim.errors import Unavailable
from crishim.interfaces.capabilities import capabilities

T = TypeVar("T")
Verb = Callable[..., Awaitable[Any]]

_ID_LENGTH: Final = 64
_SHOWN: Final = 120


class Wrapped:
    """Forwards everything to the wrapped object, changed by `change`, which gets the name and the real attribute. Claims the
    capabilities of the wrapped object.
    """

    def __init__(self, inner: object, change: Callable[[str, Any], Any]) -> None:
        self._inner = inner
        self._change = change
        self.capabilities = capabilities(inner)

    def __getattr__(self, name: str) -> Any:
        return self._change(name, getattr(self._inner, name))


def _instead(inner: T, verb: str, wrap: Callable[[Verb], Verb]) -> T:
    """`inner` with one verb wrapped."""
    if not hasattr(inner, verb):
        raise AttributeError(f"{type(inner).__name__} has no {verb}")
    return cast("T", Wrapped(inner, lambda name, real: wrap(real) if name == verb else real))


def failing(inner: T, verb: str, *, at: int | None = None, error: BaseException | None = None, after: bool = False) -> T:
    """`inner`, whose `verb` raises: every time, or only at its `at`-th call (from 1); before or `after` it has done
    its work.
    """
    calls = 0

    def wrap(real: Verb) -> Verb:
        @functools.wraps(real)
        async def fail(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if at is not None and calls != at:
                return await real(*args, **kwargs)
            if after:
                await real(*args, **kwargs)
            raise error if error is not None else RuntimeError(f"injected fault in {verb}")

        return fail

    return _instead(inner, verb, wrap)


def hanging(inner: T, verb: str, *, stubborn: bool = False) -> T:
    """`inner`, whose `verb` never returns; with `stubborn` it swallows its first cancellation."""

    def wrap(real: Verb) -> Verb:
        @functools.wraps(real)
        async def hang(*_args: Any, **_kwargs: Any) -> Any:
            ignored = 1 if stubborn else 0
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    ignored -= 1
                    if ignored < 0:
                        raise

        return hang

    return _instead(inner, verb, wrap)


def dropping(inner: T, verb: str, gone: asyncio.Event) -> T:
    """`inner`, whose `verb` raises `Unavailable` while `gone` is set."""

    def wrap(real: Verb) -> Verb:
        @functools.wraps(real)
        async def drop(*args: Any, **kwargs: Any) -> Any:
            if gone.is_set():
                raise Unavailable("injected fault: the engine is unavailable")
            return await real(*args, **kwargs)

        return drop

    return _instead(inner, verb, wrap)


def traced(inner: T, lines: list[str]) -> T:
    """`inner`, whose verbs add a line to `lines` when they end: the verb, what it was called with, and what came of it."""

    def change(name: str, real: Any) -> Any:
        return _tracing(name, real, lines) if inspect.iscoroutinefunction(real) else real

    return cast("T", Wrapped(inner, change))


def _tracing(name: str, real: Verb, lines: list[str]) -> Verb:
    @functools.wraps(real)
    async def trace(*args: Any, **kwargs: Any) -> Any:
        subjects = ", ".join(_short(value) for value in (*args, *kwargs.values()))
        try:
            result = await real(*args, **kwargs)
        except BaseException as error:
            lines.append(f"{name}({subjects}) raised {type(error).__name__}: {error}")
            raise
        lines.append(f"{name}({subjects})" + ("" if result is None else f" returned {result!r:.300}"))
        return result

    return trace


def _short(value: object) -> str:
    """An argument in few characters: an object with an id by its class and the end of the id."""
    if isinstance(value, str) and len(value) == _ID_LENGTH:
        return f"...{value[-6:]}"
    own = getattr(value, "id", None)
    shown = f"{type(value).__name__} ...{own[-6:]}" if isinstance(own, str) else repr(value)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
