"""What a server does to its process."""

import gc
import weakref

from archscore_server import run


class Node:
    """Something that can be in a cycle."""


def test_what_stays_is_left_alone_by_the_garbage_collector_and_new_cycles_are_not():
    before = gc.get_threshold()
    try:
        run._keep_collections_short()
        assert gc.get_freeze_count() > 10_000
        node = Node()
        node.itself = node
        gone = weakref.ref(node)
        del node
        gc.collect(1)
        assert gone() is None
        assert gc.get_threshold()[2] > before[2]
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
