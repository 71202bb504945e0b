import asyncio

import pytest

from crishim.interfaces.tracing import ServedRpc, Span, SpanAttributes, current_rpc, outside_rpcs, serving, span


class ListedSpan(Span):
    """A span that writes what happens to it into a list."""

    trace_id = "ab" * 16

    def __init__(self, name: str, events: list[str]) -> None:
        self.name = name
        self.events = events

    def child(self, name: str, attributes: SpanAttributes) -> Span:
        del attributes
        self.events.append(f"{self.name} > {name}")
        return ListedSpan(name, self.events)

    def annotate(self, attributes: SpanAttributes) -> None:
        self.events += attributes

    def end(self, error: BaseException | None = None) -> None:
        self.events.append(f"{self.name} ends with {error!r}")


def test_there_is_no_span_without_a_trace() -> None:
    """Nothing is recorded outside of RPCs, and in an RPC that is not traced."""
    with span("a") as one, serving(ServedRpc(number=1)), span("b") as two:
        assert (None, None) == (one, two)


def test_spans_are_nested() -> None:
    """A span is a child of the one around it, and an exception is the error of each that it passes."""
    events: list[str] = []

    def work() -> None:
        with span("a"):
            with span("b"):
                pass
            with span("c"):
                raise KeyError(1)

    with serving(ServedRpc(number=1, span=ListedSpan("rpc", events))), pytest.raises(KeyError):
        work()
    expected = ["rpc > a", "a > b", "b ends with None", "a > c", "c ends with KeyError(1)", "a ends with KeyError(1)"]
    assert expected == events


async def test_a_task_inherits_the_rpc() -> None:
    """A task serves the RPC in which it was started, also after its end; work outside of RPCs does not."""
    events: list[str] = []
    ended = asyncio.Event()

    async def work() -> int:
        await ended.wait()
        with span("work"):
            rpc = current_rpc()
        return 0 if rpc is None else rpc.number

    with serving(ServedRpc(number=7, span=ListedSpan("rpc", events))):
        inside = asyncio.create_task(work())
        outside = asyncio.create_task(work(), context=outside_rpcs())
    ended.set()
    assert (7, 0) == (await inside, await outside)
    assert (None, ["rpc > work", "work ends with None"]) == (current_rpc(), events)
