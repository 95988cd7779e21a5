"""`Course`: which phase a request is in, and what each phase's policy has learnt."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive import (
    AdaptiveP,
    Course,
    EntropyEvent,
    EntropyFeedback,
    Filters,
    Fixed,
    Mirostat,
    ParameterError,
    Phase,
    Phased,
    PolicyState,
    Rows,
    RowSettings,
)
from tests.adaptive.cases import infos, random_logits

HOT, COOL = Fixed(1.4), Fixed(0.3)


def taken(course, *texts, entropy=1.0):
    return [course.take((), entropy, text) for text in texts]


def test_a_marker_ends_its_phase_wherever_tokens_divide_it():
    for texts in (["</think>"], ["x</thi", "nk>y"], ["<", "/", "t", "h", "i", "n", "k", ">"], ["<<", "/think", ">"]):
        course = Course(Phased((Phase(HOT, "</think>"), Phase(COOL))))
        assert taken(course, *texts) == [False] * (len(texts) - 1) + [True]
        assert course.policy == COOL
        assert taken(course, "</think>") == [False]


def test_what_only_looks_like_a_marker_ends_nothing():
    course = Course(Phased((Phase(HOT, "aab"), Phase(COOL))))
    assert taken(course, "a", "ab"[:1], "a", "c", "aa", "", "") == [False] * 7
    assert taken(course, "b") == [True]


@settings(max_examples=100, deadline=None)
@given(st.text("ab", min_size=1, max_size=4), st.lists(st.text("ab", max_size=5), max_size=30))
def test_a_marker_is_found_at_the_token_that_completes_it(marker, texts):
    course = Course(Phased((Phase(HOT, marker), Phase(COOL))))
    whole = ""
    for text in texts:
        whole += text
        assert course.take((), 1.0, text) == (marker in whole)
        if marker in whole:
            return


def test_a_marker_left_of_a_phases_beginning_does_not_count():
    course = Course(Phased((Phase(HOT, 1), Phase(HOT, "ab"), Phase(COOL))))
    assert taken(course, "a", "b", "ab") == [True, False, True]


def test_a_number_of_tokens_ends_a_phase():
    course = Course(Phased((Phase(HOT, 2), Phase(COOL, 3), Phase(HOT))))
    assert taken(course, *"abcdefgh") == [False, True, False, False, True, False, False, False]
    assert course.phase == 2


@pytest.mark.parametrize(
    ("event", "entropies", "ends"),
    [
        (EntropyEvent(above=2.0), [1.0, 1.9, 2.0], 2),
        (EntropyEvent(below=0.5), [1.0, 0.51, 0.5], 2),
        (EntropyEvent(above=2.0, tokens=3), [3, 3, 1, 3, 3, 3], 5),
        (EntropyEvent(below=0.0), [0.1, 0.0], 1),
        (EntropyEvent(above=2.0, tokens=2), [3.0, float("nan"), 3.0, 3.0], 3),
    ],
)
def test_an_entropy_event_ends_a_phase_after_its_tokens_in_a_row(event, entropies, ends):
    course = Course(Phased((Phase(HOT, event), Phase(COOL))))
    assert [course.take((), h, "") for h in entropies].index(True) == ends


NESTED = Phased(
    (
        Phase(Mirostat(1.0), 3),
        Phase(Fixed(0.5), "b"),
        Phase(EntropyFeedback(0.8, half_life=3.0), EntropyEvent(above=1.0, tokens=2)),
        Phase(AdaptiveP(0.4), 4),
        Phase(Mirostat(2.0, 0.3)),
    )
)


def text_of(token):
    return "ab<>"[token % 4]


def run(course, first, last, seed=5):
    """Tokens, figures and the course's phase, from position `first` to `last`; the batch is changed at each phase."""
    rows = Rows([RowSettings(course.policy, Filters(top_p=0.9), seed, first, state=course.state)])
    seen = []
    for position in range(first, last):
        info = infos(random_logits(1, 30, 2.5, position), rows)[0]
        seen.append((repr(info), course.phase))
        if course.take(info.state, info.original_entropy, text_of(info.token_id)):
            settings_now = RowSettings(course.policy, Filters(top_p=0.9), seed, state=course.state)
            rows = rows.change([0], anew={0: settings_now})
    return seen, [text_of(int(record.split("token_id=")[1].split(",")[0])) for record, _ in seen]


def test_a_course_restored_from_its_report_at_every_position_goes_on_the_same():
    """Bit for bit: tokens, every figure, phase, the states of all phases, and a marker that had begun."""
    length = 24
    whole = Course(NESTED)
    uncut, texts = run(whole, 0, length)
    assert whole.phase == 4
    for cut in range(length):
        first = Course(NESTED)
        run(first, 0, cut)
        rest = Course(NESTED, first.report())
        rest.replay("".join(texts[cut - first.tokens : cut]))
        assert (rest.phase, rest.tokens, rest.state) == (first.phase, first.tokens, first.state)
        assert run(rest, cut, length)[0] == uncut[cut:]
        assert rest.report() == whole.report()


def test_each_phases_state_stays_as_its_phase_left_it():
    course = Course(NESTED)
    run(course, 0, 24)
    report = course.report()
    assert [None if nested is None else nested.policy for nested in report.phases] == [
        "mirostat", None, "entropy_feedback", "adaptive_p", "mirostat",
    ]  # fmt: skip
    alone = Course(Mirostat(1.0))
    run(alone, 0, 3)
    assert report.phases[0] == alone.report()


def test_a_policy_that_is_not_phased_is_a_course_of_one_phase():
    assert Course(Fixed()).report() is None
    assert not Course(Fixed()).phased
    assert Course(Mirostat(1.0)).report() == PolicyState("mirostat", {"mu": 2.0})
    assert Course(Mirostat(1.0), PolicyState("mirostat", {"mu": 0.25})).state == {"mu": 0.25}


@pytest.mark.parametrize(
    ("policy", "state", "field"),
    [
        (Mirostat(), PolicyState("bell", {"mu": 1.0}), "policy"),
        (Mirostat(), PolicyState("mirostat", {}), "values"),
        (Mirostat(), PolicyState("mirostat", {"mu": float("nan")}), "values.mu"),
        (NESTED, PolicyState("phased", {"phase": 9.0, "tokens": 0.0, "in_a_row": 0.0}), "values"),
        (NESTED, PolicyState("phased", {"phase": 0.5, "tokens": 0.0, "in_a_row": 0.0}), "values"),
        (NESTED, PolicyState("phased", {"phase": 0.0, "tokens": 0.0, "in_a_row": 0.0}), "phases"),
        (
            NESTED,
            PolicyState("phased", {"phase": 0.0, "tokens": 0.0, "in_a_row": 0.0}, (None,) * 5),
            "phases[0].values",
        ),
    ],
)
def test_a_state_of_another_policy_is_refused_with_its_field(policy, state, field):
    with pytest.raises(ParameterError) as raised:
        Course(policy, state)
    assert raised.value.violations[0][0] == field


@pytest.mark.parametrize(
    ("phases", "field"),
    [
        ((), "phases"),
        ((Phase(HOT),) * 9, "phases"),
        ((Phase(HOT), Phase(COOL)), "phases[0].until"),
        ((Phase(HOT, 3),), "phases[0].until"),
        ((Phase(HOT, 0), Phase(COOL)), "phases[0].tokens"),
        ((Phase(HOT, ""), Phase(COOL)), "phases[0].marker"),
        ((Phase(HOT, "x" * 257), Phase(COOL)), "phases[0].marker"),
        ((Phase(HOT, EntropyEvent()), Phase(COOL)), "phases[0].entropy_event"),
        ((Phase(HOT, EntropyEvent(above=1.0, tokens=0)), Phase(COOL)), "phases[0].entropy_event.tokens"),
        ((Phase(NESTED, 3), Phase(COOL)), "phases[0].policy"),
    ],
)
def test_phases_that_make_no_course_are_refused_with_their_field(phases, field):
    with pytest.raises(ParameterError) as raised:
        Phased(phases)
    assert field in [name for name, _ in raised.value.violations]
