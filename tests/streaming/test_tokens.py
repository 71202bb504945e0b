import itertools
import string
from collections.abc import Callable

import pytest

from crishim.errors import Internal, NotFound, ResourceExhausted
from crishim.streaming.tokens import TokenCache


def counting() -> Callable[[int], bytes]:
    """A source of bytes that never repeats itself and is no secret."""
    numbers = itertools.count()
    return lambda size: next(numbers).to_bytes(size, "big")


def test_a_token_gives_its_value_once() -> None:
    """A token is used up by its first use."""
    cache: TokenCache[str] = TokenCache(counting())
    token = cache.insert("exec", 0.0)
    expected = "exec"
    assert expected == cache.consume(token, 0.0)
    with pytest.raises(NotFound):
        cache.consume(token, 0.0)


def test_a_token_is_eight_url_safe_characters() -> None:
    """Six random bytes are eight characters that a URL takes as they are."""
    token = TokenCache[int](lambda size: b"\xff\xfe\xfd\xfb\xef\xbe"[:size]).insert(1, 0.0)
    assert len(token) == 8
    assert set(token) <= set(string.ascii_letters + string.digits + "-_")


def test_unknown_tokens_are_not_found() -> None:
    """An unknown token is not found."""
    with pytest.raises(NotFound):
        TokenCache[int](counting()).consume("AAAAAAAA", 0.0)


def test_a_token_lives_one_minute() -> None:
    """At 59.9 seconds a token is good, at 60 it is gone."""
    cache: TokenCache[int] = TokenCache(counting())
    early, late = cache.insert(1, 100.0), cache.insert(2, 100.0)
    assert cache.consume(early, 159.9) == 1
    with pytest.raises(NotFound):
        cache.consume(late, 160.0)
    assert not len(cache)


def test_a_thousand_may_wait() -> None:
    """The 1001st outstanding token is refused; one that is used or too old makes room."""
    cache: TokenCache[int] = TokenCache(counting())
    tokens = [cache.insert(number, float(number < 500)) for number in reversed(range(1000))]
    with pytest.raises(ResourceExhausted):
        cache.insert(1000, 59.0)
    cache.consume(tokens[-1], 59.0)
    cache.insert(1000, 59.0)
    with pytest.raises(ResourceExhausted):
        cache.insert(1001, 59.0)
    cache.insert(1001, 60.0)
    expected = 1000 - 500 + 1
    assert expected == len(cache)


def test_a_token_in_use_is_not_given_again() -> None:
    """A random number that is taken already is drawn again."""
    draws = iter([b"aaaaaa", b"aaaaaa", b"bbbbbb"])
    cache: TokenCache[int] = TokenCache(lambda _size: next(draws))
    assert cache.insert(1, 0.0) != cache.insert(2, 0.0)


def test_a_source_that_repeats_itself_is_an_internal_error() -> None:
    """A source without chance in it does not hang the caller."""
    cache: TokenCache[int] = TokenCache(bytes)
    cache.insert(1, 0.0)
    with pytest.raises(Internal):
        cache.insert(2, 0.0)
