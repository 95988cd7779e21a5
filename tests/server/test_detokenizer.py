"""Bytes of tokens and text of bytes, for the two ways in which tokenizers spell them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from server.engine.detokenizer import Detokenizer, TokenBytes
from server.engine.loading import EMBEDDED

TEXTS = ["def f(x):\n    return x\n", "naïve café — 日本語 🙂🙃 \x00\x7f", "  two  spaces", "tab\tend"]


@pytest.fixture(scope="module")
def embedded():
    return AutoTokenizer.from_pretrained(EMBEDDED)


@pytest.fixture(scope="module")
def sentencepiece_like():
    """As Llama 2: a visible space, and bytes as <0x..> for what is not in the vocabulary."""
    vocab = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz"]
    bpe = Tokenizer(models.BPE({t: i for i, t in enumerate(vocab)}, [], unk_token="<unk>", byte_fallback=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_of_tokens_are_the_bytes_of_the_text(embedded, text):
    spell = TokenBytes(embedded)
    ids = embedded(text, add_special_tokens=False)["input_ids"]
    assert b"".join(map(spell, ids)).decode() == text == embedded.decode(ids)


@pytest.mark.parametrize("text", TEXTS)
def test_byte_fallback_spells_what_is_not_in_the_vocabulary(sentencepiece_like, text):
    spell = TokenBytes(sentencepiece_like)
    ids = sentencepiece_like(text, add_special_tokens=False)["input_ids"]
    assert b"".join(map(spell, ids)).decode().removeprefix(" ") == text


def test_special_tokens_have_no_bytes(embedded, sentencepiece_like):
    assert TokenBytes(embedded)(embedded.eos_token_id) == b""
    assert TokenBytes(sentencepiece_like)(1) == b""


def test_an_unknown_way_of_spelling_is_asked_token_by_token():
    words = Tokenizer(models.WordLevel({"hello": 0, "there": 1}, unk_token="hello"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    assert TokenBytes(tokenizer)(1) == b"there"


@given(st.binary(max_size=40), st.data())
def test_text_in_pieces_is_the_text_of_the_whole_and_splits_no_character(data, draws):
    cuts = sorted(draws.draw(st.lists(st.integers(0, len(data)), max_size=8)))
    detokenizer = Detokenizer()
    pieces = [detokenizer.feed(data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert "".join(pieces) + detokenizer.flush() == data.decode(errors="replace")


def test_a_trained_byte_level_tokenizer_with_added_tokens():
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(["ab ab"], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe)
    tokenizer.add_tokens(["<tool é>"])
    spell = TokenBytes(tokenizer)
    ids = tokenizer("ab<tool é>ü", add_special_tokens=False)["input_ids"]
    assert b"".join(map(spell, ids)).decode() == "ab<tool é>ü"
