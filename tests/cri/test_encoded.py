from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim.cri import pb
from crishim.cri.convert import container
from crishim.cri.encoded import EncodedItems, EncodedMessages, ListedItems, batches, field_item, varint
from crishim.model.container import Container, ContainerMetadata, ContainerState
from crishim.model.values import ContainerId, SandboxId, Versioned
from tests.strategies import of

FIELD = pb.ListContainersResponse.CONTAINERS_FIELD_NUMBER


def item(number: int, version: int = 0, image_ref: str = "") -> Versioned[Container]:
    container_of = Container(
        id=ContainerId(f"{number:064x}"),
        pod_sandbox_id=SandboxId("s"),
        metadata=ContainerMetadata("main"),
        image_ref=image_ref,
        state=ContainerState.RUNNING,
        created_at=1,
    )
    return Versioned(version, container_of)


class Counting:
    """An encoder that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, item: Container) -> pb.Container:
        self.calls += 1
        return container.encode_item(item)


def plainly(items: Sequence[Versioned[Container]]) -> pb.ListContainersResponse:
    return pb.ListContainersResponse(containers=[container.encode_item(versioned.item) for versioned in items])


@given(st.lists(st.builds(Versioned, version=st.integers(0, 3), item=of(Container)), max_size=5))
def test_a_join_is_the_reply(items: list[Versioned[Container]]) -> None:
    """The joined bytes are read as the reply with the same items in the same order."""
    items = list({versioned.item.id: versioned for versioned in items}.values())
    joined = EncodedItems(FIELD, container.encode_item).join(items)
    assert plainly(items) == pb.ListContainersResponse.FromString(joined)


def test_unchanged_items_are_encoded_once() -> None:
    """Lists after the first encode nothing, whichever items they show and in whatever order."""
    encode = Counting()
    cache = EncodedItems(FIELD, encode)
    items = [item(number) for number in range(5)]
    for shown in (items, items[::-1], items[2:3], []):
        assert plainly(shown) == pb.ListContainersResponse.FromString(cache.join(shown))
    assert encode.calls == 5


def test_a_changed_item_is_encoded_again() -> None:
    """Another version of an id takes the old one's place."""
    encode = Counting()
    cache = EncodedItems(FIELD, encode)
    cache.join([item(1), item(2)])
    changed = [item(1, version=1, image_ref="new"), item(2)]
    assert plainly(changed) == pb.ListContainersResponse.FromString(cache.join(changed))
    assert encode.calls == 3
    assert len(cache) == 2


def test_what_is_gone_is_let_go() -> None:
    """However many items come and go, the cache has at most a thousand, or twice the longest list."""
    cache = EncodedItems(FIELD, container.encode_item)
    for start in range(0, 20_000, 100):
        shown = [item(number) for number in range(start, start + 200)]
        assert plainly(shown) == pb.ListContainersResponse.FromString(cache.join(shown))
        assert len(cache) <= 1024


def test_a_streamed_list_is_the_same_list() -> None:
    """The messages of a stream hold each item once, in order; each stays within the limit."""
    cache = EncodedItems(FIELD, container.encode_item)
    items = [item(number) for number in range(50)]
    messages = list(cache.batches(items, limit=1000))
    assert len(messages) > 1
    assert all(len(message) <= 1000 for message in messages)
    assert cache.join(items) == b"".join(messages)
    streamed = [pb.StreamContainersResponse.FromString(message) for message in messages]
    assert list(plainly(items).containers) == [found for reply in streamed for found in reply.containers]
    assert all(reply.containers for reply in streamed)


def test_items_that_are_always_new_are_streamed_too() -> None:
    """A stream of items without versions has the same bytes."""
    items = [item(number).item for number in range(10)]
    messages = list(ListedItems(FIELD, container.encode_item).batches(items, limit=300))
    expected = [found.id for found in items]
    assert expected == [
        found.id for message in messages for found in pb.StreamContainersResponse.FromString(message).containers
    ]


def test_an_item_that_cannot_be_encoded(caplog: pytest.LogCaptureFixture) -> None:
    """Lists and streams show the other items, and each version of the item is logged once."""
    versions = EncodedItems(FIELD, container.encode_item)
    listed = ListedItems(FIELD, container.encode_item)
    items = (item(1), item(2, image_ref="\ud800"), item(3))
    plain = [versioned.item for versioned in items]
    expected = plainly([items[0], items[2]])
    for _ in range(3):
        replies = [versions.join(list(items)), listed.join(plain), *versions.batches(items), *listed.batches(plain)]
        assert [expected] * 4 == [pb.ListContainersResponse.FromString(reply) for reply in replies]
    assert [True] * 2 == [f"{2:064x}" in record.getMessage() for record in caplog.records]
    assert [] == list(listed.batches(plain[1:2]))


def test_an_empty_list_has_no_message() -> None:
    """Nothing to show is nothing to send."""
    assert list(batches([])) == []


def test_an_item_over_the_limit_travels_alone() -> None:
    """An item larger than the limit has a message of its own."""
    expected = [b"a", b"bbbb", b"cc"]
    assert expected == list(batches([b"a", b"bbbb", b"c", b"c"], limit=2))


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02"), (2**21, b"\x80\x80\x80\x01")],
)
def test_varints(number: int, expected: bytes) -> None:
    """A number is written seven bits a byte, the lowest first."""
    assert expected == varint(number)


def test_field_numbers_may_be_large() -> None:
    """A field's key is a varint like the length."""
    spec = pb.ImageSpec(runtime_handler="h")
    assert varint(19 << 3 | 2) + b"\x01h" == spec.SerializeToString()
    assert pb.Image(spec=spec).SerializeToString() == field_item(pb.Image.SPEC_FIELD_NUMBER, spec)


def test_long_lists_are_cached_whole() -> None:
    """A list longer than the usual limit is encoded once nevertheless."""
    encode = Counting()
    cache = EncodedItems(FIELD, encode)
    items = [item(number) for number in range(3000)]
    cache.join(items)
    cache.join(items)
    assert encode.calls == 3000
    assert len(cache) == 3000


def test_the_same_tuple_is_joined_once() -> None:
    """An unchanged listing, recognised as the same tuple, is neither iterated nor joined again."""
    cache = EncodedItems(FIELD, Counting())
    items = tuple(item(number) for number in range(10))
    first = cache.join(items)
    assert first is cache.join(items)
    assert first == cache.join(list(items))
    assert first != cache.join(items[:5])


def test_a_message_is_encoded_once_while_it_is_the_same() -> None:
    """A status is encoded anew when it is another object, and the cache has a bound."""
    counting = Counting()
    messages = EncodedMessages(counting)
    one, other = item(1).item, item(1).item
    assert field_item(FIELD, container.encode_item(one)) == messages.field(FIELD, one) == messages.field(FIELD, one)
    assert 1 == counting.calls
    messages.field(FIELD, other)
    assert 2 == counting.calls
    for number in range(2, 5000):
        messages.field(FIELD, item(number).item)
    assert len(messages._cached) <= 4096
