"""Bytes of tokens, and text in pieces that never split a character."""

import codecs
import json
from typing import Any

_PROBE = "Hello, wörld!\n    x = [1, 2]  # 日本 🙂\tend"


def _byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level BPE (GPT-2): which character stands for which byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


class TokenBytes:
    """The bytes that each token stands for. Special tokens stand for none.

    Knows the two ways in which today's tokenizers spell bytes: byte-level BPE (GPT-2, Llama 3, Qwen, OPT, NeoX) and
    byte fallback with a visible space (Llama 2, Mistral, Gemma, Phi-3). Any other tokenizer is asked token by token.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids)
        self._added = {token_id: str(token) for token_id, token in tokenizer.added_tokens_decoder.items()}
        self._cache: dict[int, bytes] = {}
        self._spell = self._way()

    def __call__(self, token_id: int) -> bytes:
        """Bytes of one token; empty for a special token and for an id without a token."""
        known = self._cache.get(token_id)
        if known is None:
            known = self._cache[token_id] = self._look_up(token_id)
        return known

    def _look_up(self, token_id: int) -> bytes:
        if token_id in self._special:
            return b""
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        return b"" if token is None else self._spell(token)

    def _way(self) -> Any:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        decoder = json.dumps(json.loads(backend.to_str())["decoder"]) if backend is not None else ""
        ways = {"ByteLevel": self._byte_level, "ByteFallback": self._byte_fallback, "Metaspace": self._byte_fallback}
        for name, way in ways.items():
            if f'"{name}"' in decoder:
                ids = self._tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
                self._spell = way
                text = b"".join(self._look_up(i) for i in ids).decode(errors="replace")
                if text.removeprefix(" ") == _PROBE or _lossy(ids, self._tokenizer):
                    return way
        return lambda token: self._tokenizer.convert_tokens_to_string([token]).encode()

    def _byte_level(self, token: str, alphabet: dict[str, int] = _byte_of_character()) -> bytes:  # noqa: B008
        return b"".join(bytes([alphabet[c]]) if c in alphabet else c.encode() for c in token)

    def _byte_fallback(self, token: str) -> bytes:
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()


def _lossy(ids: list[int], tokenizer: Any) -> bool:
    """Whether the tokenizer itself cannot spell the probe, so that no way of reading it could be told wrong."""
    return tokenizer.decode(ids).strip() != _PROBE


class Detokenizer:
    """Text of one generation, in pieces of whole characters; what is no UTF-8 becomes U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> str:
        """The characters that `data` completes."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What is left of an unfinished character."""
        return self._decoder.decode(b"", final=True)
