"""Prompts that begin alike: keys and values of their blocks, kept for the next generation that begins so."""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from server.engine.kv_cache import Block, RowCache


def block_names(prompt: Sequence[int], block: int) -> list[bytes]:
    """A name for each whole block of a prompt but for its last token, whose logits are wanted.

    A name stands for all tokens up to the block's end, so that equal names mean equal keys and values.
    """
    names: list[bytes] = []
    for start in range(0, (len(prompt) - 1) // block * block, block):
        before = names[-1] if names else b""
        names.append(blake2b(before + np.asarray(prompt[start : start + block]).tobytes(), digest_size=16).digest())
    return names


class PrefixCache:
    """Blocks by name; the least recently used go first. Owned by the engine thread.

    block: tokens of a block.
    """

    def __init__(self, block: int) -> None:
        self._block = block
        self._blocks: OrderedDict[bytes, Block] = OrderedDict()

    @property
    def tokens(self) -> int:
        """Tokens whose keys and values are kept."""
        return len(self._blocks) * self._block

    def restore(self, names: Sequence[bytes], first: int, cache: RowCache) -> int:
        """Put the blocks from number `first` on into a generation's memory, as far as they are there; how many."""
        place = first
        while place < len(names) and names[place] in self._blocks:
            cache.put(place * self._block, self._blocks[names[place]])
            place += 1
        self._touch(names[:place])
        return place - first

    def keep(self, names: Sequence[bytes], first: int, cache: RowCache, room: int) -> None:
        """Keep the blocks from number `first` on, which were just computed, if `room` tokens can hold them."""
        for place in range(first, len(names)):
            if names[place] not in self._blocks and (place + 1) * self._block <= room:
                self.shrink(room - self._block)
                self._blocks[names[place]] = cache.get(place * self._block, (place + 1) * self._block)
        self._touch(names)

    def shrink(self, tokens: int) -> None:
        """Forget blocks until at most so many tokens are kept."""
        while self._blocks and self.tokens > tokens:
            self._blocks.popitem(last=False)

    def _touch(self, names: Sequence[bytes]) -> None:
        """These were used now. Without its beginning a block is of no use, so that the later blocks go before it."""
        for name in reversed(names):
            if name in self._blocks:
                self._blocks.move_to_end(name)
