"""Prompts to token ids. Safe to call from several threads: nothing here changes the tokenizer."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from server.engine.detokenizer import TokenBytes

_MOST_REMEMBERED = 256


class PromptError(ValueError):
    """The prompt cannot become tokens; the message says why."""


class Tokenizer:
    """A Hugging Face tokenizer behind the three verbs that the server needs."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self.token_bytes = TokenBytes(tokenizer)
        self._containing: dict[str, frozenset[int]] = {}
        self.longest_token = max(map(len, tokenizer.get_vocab()))

    @property
    def hugging_face(self) -> Any:
        """The tokenizer itself."""
        return self._tokenizer

    def containing(self, text: str) -> frozenset[int]:
        """The tokens whose bytes contain `text`. Looks at the whole vocabulary once for each text."""
        known = self._containing.get(text)
        if known is None:
            data = text.encode()
            known = frozenset(i for i in range(len(self._tokenizer)) if data in self.token_bytes(i))
            if len(self._containing) < _MOST_REMEMBERED:
                self._containing[text] = known
        return known

    @property
    def has_chat_template(self) -> bool:
        """Whether `encode_chat` works."""
        return bool(self._tokenizer.chat_template)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text, with the special tokens that the tokenizer adds by default."""
        if self._backend is not None:
            return list(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)
        return list(self._tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])

    def encode_chat(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool) -> list[int]:
        """Token ids of a conversation laid out by the chat template. PromptError if the template refuses it."""
        if not self.has_chat_template:
            raise PromptError("the served model has no chat template: send text or token_ids")
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except (TemplateError, TypeError, ValueError) as refusal:
            raise PromptError(f"the model's chat template refuses it: {refusal}") from refusal
        return self.encode(text, add_special_tokens=False)
