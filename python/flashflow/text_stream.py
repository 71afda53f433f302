"""From tokens to text, as they come: no half characters, and never past a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"  # what a decoder puts for bytes that are no character (yet)


class TextStream:
    """Turns the tokens of one request into text deltas. The deltas, joined, are `text`.

    A token may end in the middle of a character, and its text may depend on the token before it (a decoder may drop
    a leading space). So the last tokens are decoded together with those before them, and what they add is the delta;
    it is held back while it ends in an incomplete character or in what may become a stop string.

    Args:
        decode: token ids -> text.
        stop: strings at which the text ends; the first to come up counts, and is not part of the text.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._tokens: list[int] = []
        self._context = 0  # tokens before this one play no part any more
        self._decoded = 0  # tokens before this one are in _complete
        self._complete = ""  # all text of whole characters
        self._emitted = 0  # characters of it that were given out
        self.stopped = False

    @property
    def text(self) -> str:
        """What was given out."""
        return self._complete[: self._emitted]

    def push(self, token: int) -> str:
        """The text that one more token allows to be given out, maybe "". Sets `stopped` at a stop string."""
        assert not self.stopped
        self._tokens.append(token)
        return self._take(self._new_text(final=False), final=False)

    def finish(self) -> str:
        """The text held back, when no token is to come. An incomplete character becomes U+FFFD."""
        return "" if self.stopped else self._take(self._new_text(final=True), final=True)

    def _new_text(self, final: bool) -> str:
        known = self._decode(self._tokens[self._context : self._decoded])
        whole = self._decode(self._tokens[self._context :])
        if len(whole) <= len(known) or (whole.endswith(REPLACEMENT) and not final):
            return ""
        self._context, self._decoded = self._decoded, len(self._tokens)
        return whole[len(known) :]

    def _take(self, new: str, final: bool) -> str:
        # A stop string that ends in the new text starts at most its length before.
        search_from = max(self._emitted, len(self._complete) - max(map(len, self._stop), default=0))
        self._complete += new
        found = [at for s in self._stop if (at := self._complete.find(s, search_from)) >= 0]
        if found:
            self.stopped = True
            end = min(found)
        else:
            end = len(self._complete) - (0 if final else self._held_back())
        delta = self._complete[self._emitted : end]
        self._emitted = max(self._emitted, end)
        return delta

    def _held_back(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        for length in range(min(max(map(len, self._stop), default=1) - 1, len(self._complete)), 0, -1):
            if any(s.startswith(self._complete[-length:]) for s in self._stop):
                return length
        return 0
