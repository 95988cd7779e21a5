"""The text that the embedded model is made of: the modules of the standard library, and which of them are held out."""

import hashlib
import re
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TABLES = re.compile(
    r"encodings/(cp|mac_|iso|koi|kz|hp|ptcp|tis|palmos|charmap|big5|gb|johab|euc|shift)|html/entities|_pydecimal_tables"
    r"|pydoc_data/|stringprep|lib2to3/tests/data|test/bad|badsyntax|test/test_unicode|unicodedata|_sysconfigdata"
    r"|tokenizedata|keycert|ensurepip/_bundled"
)
TEST = re.compile(r"(^|/)(test|tests|idle_test)/")
# Tests of held-out modules that do not carry the module's name.
OTHER_TESTS = re.compile(
    r"^test/(test_httpservers\.py|test_json/|test_warnings/|test_unparse\.py|test_codecs\.py|test_zipimport_support\.py"
    r"|audiotests\.py|pydocfodder\.py|test_asyncio/test_(futures2?|subprocess)\.py|test_multiprocessing_)|^lib2to3/tests/"
)


@dataclass(frozen=True, slots=True)
class Module:
    """One module of the standard library: its path below the library's root, and its source."""

    name: str
    text: str
    held_out: bool

    @property
    def is_test(self) -> bool:
        """Whether it is a test, or a part of one."""
        return is_test(self.name)


def is_test(name: str) -> bool:
    """Whether the module of this path is a test, or a part of one."""
    return bool(TEST.search(name))


def held_out_names(names: Iterable[str]) -> frozenset[str]:
    """One module in twenty by the hash of its name, and the tests that go with those: by their name, or listed."""
    names = list(names)
    modules = {n for n in names if not is_test(n) and hashlib.sha256(n.encode()).digest()[0] % 20 == 0}
    tested = set()
    for name in modules:
        parts = name.removesuffix(".py").removesuffix("/__init__").split("/")
        tested |= {parts[-1].lstrip("_"), "_".join(parts).lstrip("_")}

    def subject(name: str) -> str:
        return re.sub(r"^_?test_", "", name.rsplit("/", 1)[-1].removesuffix(".py")).lstrip("_")

    tests = {n for n in names if is_test(n) and (subject(n) in tested or OTHER_TESTS.search(n))}
    return frozenset(modules | tests)


def standard_library() -> list[Module]:
    """All modules of the running Python's standard library that are text rather than tables, sorted by name."""
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if "site-packages" in name or TABLES.search(name):
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        digits = sum(character.isdigit() for character in text)
        if len(text) > 200 and digits < 0.15 * len(text):
            texts[name] = text
    held_out = held_out_names(texts)
    return [Module(name, text, name in held_out) for name, text in texts.items()]
