"""Forms that an output must have: JSON schema, regular expression, context-free grammar.

llguidance does the work: of the well-kept libraries it alone has all three kinds, needs no other package, and compiles
lazily, so that a large schema costs nothing before its first token. It is an extra: without it a constraint is refused.
"""

import json
import threading
from collections.abc import Sequence
from typing import Any

from server.engine.request import FormError
from server.engine.tokenizer import Tokenizer

FORMS = ("json_schema", "regex", "grammar")
LONGEST = 64 * 1024
"""Bytes of a form."""
_FORMATS: dict[str, Any] = {"json_schema": "json_schema", "regex": "regex", "grammar": "lark"}


class ConstraintError(ValueError):
    """The form cannot be served; the message says why."""


class Constraints:
    """Compiles forms for one tokenizer. Safe to call from several threads."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._lock = threading.Lock()
        self._compiled: Any = None

    def form(self, kind: str, text: str, tokens: Sequence[int] = ()) -> "LlguidanceForm":
        """The form at its beginning, or after `tokens`. ConstraintError if it is none, or if they leave it."""
        if not 1 <= len(text.encode()) <= LONGEST:
            raise ConstraintError(f"must have 1 to {LONGEST} bytes")
        try:
            import llguidance
        except ImportError:
            raise ConstraintError("cannot be served: the server is installed without its extra 'constraints'") from None
        if kind == "json_schema":
            _check_json(text)
        try:
            grammar = llguidance.grammar_from(_FORMATS[kind], text)
        except ValueError as fault:
            raise ConstraintError(f"is not understood: {_short(fault)}") from fault
        matcher = llguidance.LLMatcher(self._llguidance_tokenizer(), grammar, log_level=0)
        if matcher.is_error():
            raise ConstraintError(f"is not understood: {_short(matcher.get_error())}")
        form = LlguidanceForm(matcher, self._vocab_size)
        form.allowed()  # the dearest mask of a large form is its first: made here, and not on the engine's thread
        if matcher.is_error():
            raise ConstraintError(f"allows nothing, or is too complex: {_short(matcher.get_error())}")
        for place, token in enumerate(tokens):
            try:
                form.advance(token)
            except (FormError, OverflowError) as fault:
                raise ConstraintError(f"does not fit token {place} of resume.token_ids") from fault
        return form

    def _llguidance_tokenizer(self) -> Any:
        """The tokenizer as llguidance wants it, built once; it takes up to a second."""
        import llguidance.hf

        with self._lock:
            if self._compiled is None:
                try:
                    self._compiled = llguidance.hf.from_tokenizer(self._tokenizer.hugging_face)
                except ValueError as fault:
                    raise ConstraintError(f"cannot be served with this model's tokenizer: {_short(fault)}") from fault
            return self._compiled


class LlguidanceForm:
    """A `Form` of the engine: an automaton on the host, at the place that the output has come to."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._bytes = 4 * -(-vocab_size // 32)

    def allowed(self) -> bytes:
        """Which tokens may come next; none at all if the automaton gave up, which ends its generation."""
        bits = b"" if self._matcher.is_error() else self._matcher.compute_bitmask()
        return bits[: self._bytes].ljust(self._bytes, b"\0")

    def advance(self, token: int) -> None:
        """Take in a token. FormError if it leaves the form, or if the automaton gives up."""
        taken = self._matcher.consume_token(token)
        if self._matcher.is_error():
            raise FormError(f"is too complex to go on: {_short(self._matcher.get_error())}")
        if not taken:
            raise FormError(f"does not allow token {token}")

    @property
    def complete(self) -> bool:
        """Whether nothing but the end may come."""
        return bool(self._matcher.is_stopped())


def _check_json(text: str) -> None:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise ConstraintError(f"is no JSON: {fault}") from fault
    if not isinstance(schema, dict | bool):
        raise ConstraintError("must be a JSON object, true or false")


def _short(fault: object) -> str:
    return " ".join(str(fault).split())[:300]
