"""Stop strings: found across token borders, with text held back only while it may be the start of one."""


class StopMatcher:
    """Watches a text that arrives in pieces for the first of several stop strings.

    The work for a piece depends on its length and the stop strings', not on the text so far.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""

    def feed(self, piece: str) -> tuple[str, str | None]:
        """(text that may be shown now, the stop string found or None). After a find the rest is dropped."""
        text = self._held + piece
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, stop = min(found, key=lambda find: (find[0], -len(find[1])))
            self._held = ""
            return text[:at], stop
        keep = self._overlap(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def flush(self) -> str:
        """What is still held back, when no more text can come."""
        held, self._held = self._held, ""
        return held

    def _overlap(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            tail = text[-size:]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0
