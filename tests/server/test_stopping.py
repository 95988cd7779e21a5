"""Stop strings across pieces, and nothing held back for longer than need be."""

from hypothesis import given
from hypothesis import strategies as st

from server.engine.stopping import StopMatcher


def feed(stops, pieces):
    matcher = StopMatcher(stops)
    shown = ""
    for piece in pieces:
        text, stop = matcher.feed(piece)
        shown += text
        if stop is not None:
            return shown, stop
    return shown + matcher.flush(), None


def test_a_stop_string_is_found_across_pieces():
    assert feed(("\n\n",), ["a\n", "\nb"]) == ("a", "\n\n")
    assert feed(("STOP",), ["xS", "T", "OP!"]) == ("x", "STOP")


def test_text_is_held_back_only_while_it_may_begin_a_stop_string():
    matcher = StopMatcher(("abc",))
    assert matcher.feed("xxab") == ("xx", None)
    assert matcher.feed("d") == ("abd", None)
    assert matcher.feed("a") == ("", None)
    assert matcher.flush() == "a"


def test_the_first_in_the_text_wins_and_of_two_at_one_place_the_longer():
    assert feed(("b", "ab"), ["xab"]) == ("x", "ab")
    assert feed(("a", "ab"), ["xab"]) == ("x", "ab")


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_however_the_text_is_cut_the_result_is_that_of_the_whole(text, stops, data):
    stops = tuple(stops)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    shown, stop = feed(stops, pieces)
    assert not any(s in shown for s in stops)
    assert text.startswith(shown + (stop or ""))
    if stop is None:
        assert shown == text
