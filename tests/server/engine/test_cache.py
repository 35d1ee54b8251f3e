"""The cache keeps what was used last, within its bytes."""

from archscore_server.engine._cache import ByteCache


def test_the_least_recently_used_goes_first() -> None:
    cache: ByteCache[str] = ByteCache(30)
    for key in "abc":
        cache.put(key, key.upper(), 10)
    assert cache.get("a") == "A"
    cache.put("d", "D", 10)
    assert [cache.get(key) for key in "abcd"] == ["A", None, "C", "D"]
    assert cache.nbytes == 30


def test_a_value_replaces_the_one_of_its_key() -> None:
    cache: ByteCache[str] = ByteCache(30)
    cache.put("a", "old", 10)
    cache.put("a", "new", 25)
    assert cache.get("a") == "new"
    assert cache.nbytes == 25


def test_what_is_larger_than_the_cache_is_not_kept_and_displaces_nothing() -> None:
    cache: ByteCache[str] = ByteCache(30)
    cache.put("a", "A", 30)
    cache.put("b", "B", 31)
    assert cache.get("b") is None
    assert cache.get("a") == "A"


def test_a_cleared_cache_is_as_good_as_new() -> None:
    cache: ByteCache[str] = ByteCache(30)
    cache.put("a", "A", 20)
    cache.clear()
    assert (cache.get("a"), cache.nbytes) == (None, 0)
    cache.put("b", "B", 30)
    assert cache.get("b") == "B"
