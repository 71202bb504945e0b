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
    """Forwards everything to the wrapped object, but for one verb. Claims the capabilities of the wrapped object."""

    def __init__(self, inner: object, verb: str, instead: Callable[[Verb], Verb]) -> None:
        if not hasattr(inner, verb):
            raise AttributeError(f"{type(inner).__name__} has no {verb}")
        self._inner = inner
        self._verb = verb
        self._instead = instead(getattr(inner, verb))
        self.capabilities = capabilities(inner)

    def __getattr__(self, name: str) -> Any:
        return self._instead if name == self._verb else getattr(self._inner, name)


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

    return cast("T", Wrapped(inner, verb, wrap))


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

    return cast("T", Wrapped(inner, verb, wrap))


def dropping(inner: T, verb: str, gone: asyncio.Event) -> T:
    """`inner`, whose `verb` raises `Unavailable` while `gone` is set."""

    def wrap(real: Verb) -> Verb:
        @functools.wraps(real)
        async def drop(*args: Any, **kwargs: Any) -> Any:
            if gone.is_set():
                raise Unavailable("injected fault: the engine is unavailable")
            return await real(*args, **kwargs)

        return drop

    return cast("T", Wrapped(inner, verb, wrap))


class _Traced:
    """Forwards everything, and adds a line for each call of an async verb. Claims the capabilities of the object."""

    def __init__(self, inner: object, lines: list[str]) -> None:
        self._inner = inner
        self._lines = lines
        self.capabilities = capabilities(inner)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        return _tracing(name, value, self._lines) if inspect.iscoroutinefunction(value) else value


def traced(inner: T, lines: list[str]) -> T:
    """`inner`, whose verbs add a line to `lines` when they end: the verb, what it was called with, and what came of it."""
    return cast("T", _Traced(inner, lines))


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
