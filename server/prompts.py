"""Prompts to token ids, and all else that needs the tokenizer, away from the event loop and within limits."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from server.constraints import ConstraintError, Constraints
from server.engine.request import Form
from server.engine.tokenizer import PromptError, Tokenizer
from server.errors import Violation

_THREADS = 2


class Prompts:
    """Turns the `input` of a request into token ids. The threads are few: tokenizing is short and shares the cores."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, context_length: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._context_length = context_length
        self._constraints = Constraints(tokenizer, vocab_size)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="tokenizer")

    async def form(self, message: Any, tokens: Sequence[int], violations: list[Violation]) -> Form | None:
        """The form of a message with the oneof `form`, after `tokens`; None if there is none."""
        kind = message.WhichOneof("form")
        if kind is None:
            return None
        loop = asyncio.get_running_loop()
        text = getattr(message, kind)
        try:
            return await loop.run_in_executor(self._pool, self._constraints.form, kind, text, tokens)
        except ConstraintError as error:
            violations.append(Violation(f"constraint.{kind}", str(error)))
            return None

    async def containing(self, texts: Sequence[str]) -> frozenset[int]:
        """The tokens that contain one of `texts`."""
        loop = asyncio.get_running_loop()
        found = [await loop.run_in_executor(self._pool, self._tokenizer.containing, text) for text in texts]
        return frozenset().union(*found)

    async def read(self, message: Any, violations: list[Violation], room: int) -> tuple[int, ...]:
        """Token ids of a message with the oneof `input`; what is wrong goes to `violations`. room: the tokens that
        the context must hold beside them."""
        kind = message.WhichOneof("input")
        if kind is None:
            violations.append(Violation("input", "one of text, token_ids and chat must be set"))
            return ()
        before = len(violations)
        if kind == "token_ids":
            ids = self._ids(message.token_ids.ids, violations)
        else:
            ids = await self._encoded(kind, message, violations)
        if len(violations) == before:
            self._check_length(kind, len(ids), violations, room)
        return tuple(ids)

    def _ids(self, ids: Any, violations: list[Violation]) -> list[int]:
        # One violation is enough: a prompt in the wrong vocabulary has thousands.
        bad = next((i for i, token in enumerate(ids) if not 0 <= token < self._vocab_size), None)
        if bad is not None:
            violations.append(Violation(f"token_ids.ids[{bad}]", f"must be from 0 to {self._vocab_size - 1}"))
            return []
        return list(ids)

    async def _encoded(self, kind: str, message: Any, violations: list[Violation]) -> list[int]:
        texts = [message.text] if kind == "text" else [m.content for m in message.chat.messages]
        if not any(texts):
            field = "text" if kind == "text" else "chat.messages"
            violations.append(Violation(field, "must not be empty"))
            return []
        longest = self._context_length * self._tokenizer.longest_token
        if sum(map(len, texts)) > longest:
            violations.append(
                Violation(kind, f"is too long: {self._context_length} tokens hold at most {longest} characters")
            )
            return []
        loop = asyncio.get_running_loop()
        try:
            if kind == "text":
                return await loop.run_in_executor(self._pool, self._tokenizer.encode, message.text)
            chat = message.chat
            messages = [{"role": m.role, "content": m.content} for m in chat.messages]
            opens = chat.add_generation_prompt if chat.HasField("add_generation_prompt") else True
            return await loop.run_in_executor(self._pool, self._tokenizer.encode_chat, messages, opens)
        except PromptError as error:
            violations.append(Violation(kind, str(error)))
            return []

    def _check_length(self, kind: str, length: int, violations: list[Violation], room: int) -> None:
        most = self._context_length - room
        if length == 0:
            violations.append(Violation(kind, "must not be empty"))
        elif length > most:
            beside = f", to leave room for {room}" if room else ""
            violations.append(Violation(kind, f"must have at most {most} tokens{beside}; it has {length}"))
