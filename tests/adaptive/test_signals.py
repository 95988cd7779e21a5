"""Signals: each kind holds when its sentence says so, and no other time."""

import pytest

from adaptive import ParameterError, SamplingInfo
from adaptive.signals import KINDS, SIGNAL_PRESETS, Monitor, Rule

CALM = SamplingInfo(*([0] * len(SamplingInfo._fields)))


def info(original=1.0, final=1.0, saturated=float("nan")):
    return CALM._replace(original_entropy=original, final_entropy=final, saturated=saturated)


def raised(rule, *infos, **handed_on):
    """At which tokens the rule holds, and what it saw."""
    monitor = Monitor([rule], **handed_on)
    found = [(place, signal) for place, one in enumerate(infos) for signal in monitor.take(one)]
    return [(place, signal.value) for place, signal in found]


def test_a_very_negative_change_of_entropy_is_a_drop():
    infos = [info(3.0, 0.5), info(3.0, 1.0), info(3.0, 1.5)]
    assert raised(Rule("entropy_drop", -2.0), *infos) == [(0, -2.5), (1, -2.0)]


def test_a_low_mean_over_a_full_window_is_a_collapse():
    infos = [info(h) for h in (0.0, 0.1, 0.2, 2.0, 0.1, 0.1, 0.1)]
    assert raised(Rule("entropy_collapse", 0.15, 3), *infos) == [(2, pytest.approx(0.1)), (6, pytest.approx(0.1))]
    assert raised(Rule("entropy_collapse", 0.15, 3), *infos[:1], recent=[0.1, 0.2]) == [(0, pytest.approx(0.1))]


def test_high_entropy_and_rising_entropy_are_told_apart():
    infos = [info(6.0, 1.0), info(1.0, 3.0)]
    assert raised(Rule("entropy_high", 5.0), *infos) == [(0, 6.0)]
    assert raised(Rule("entropy_rise", 1.5), *infos) == [(1, 2.0)]


def test_a_spike_is_measured_from_the_window_before_it():
    infos = [info(h) for h in (9.0, 1.0, 2.0, 4.5, 1.0)]
    assert raised(Rule("entropy_spike", 3.0, 2), *infos) == [(3, 3.0)]


def test_saturation_counts_tokens_in_a_row():
    infos = [info(saturated=s) for s in (1.0, 1.0, 0.0, 1.0, 1.0, 1.0, float("nan"))]
    assert raised(Rule("saturated", window=2), *infos) == [(1, 2.0), (4, 2.0), (5, 3.0)]
    assert raised(Rule("saturated", window=2), *infos[:1], saturated_run=4) == [(0, 5.0)]


def test_a_monitor_handed_on_goes_on_as_if_uncut():
    infos = [info(original=(7 * i % 5) / 2, final=1.0, saturated=float(i % 3 > 0)) for i in range(60)]
    rules = [Rule(kind, window=4 if default.window else None) for kind, default in KINDS.items()]
    rules[1], rules[2] = Rule("entropy_collapse", 1.0, 4), Rule("entropy_high", 1.9)
    whole = Monitor(rules)
    expected = [whole.take(one) for one in infos]
    assert {signal.kind for signals in expected for signal in signals} >= {"entropy_collapse", "entropy_high"}
    for cut in (1, 3, 30):
        first = Monitor(rules)
        for one in infos[:cut]:
            first.take(one)
        second = Monitor(rules, first.recent, first.saturated_run)
        assert [second.take(one) for one in infos[cut:]] == expected[cut:]


def test_presets_watch_for_every_kind_and_only_report():
    for rules in SIGNAL_PRESETS.values():
        assert [rule.kind for rule in rules] == list(KINDS)
        assert {rule.action for rule in rules} == {"report"}
    strict, default = SIGNAL_PRESETS["strict"], SIGNAL_PRESETS["default"]
    assert all(abs(a.bound) != abs(b.bound) for a, b in zip(strict, default, strict=True))


@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (lambda: Rule("boredom"), ["kind"]),
        (lambda: Rule("saturated", threshold=1.0), ["threshold"]),
        (lambda: Rule("entropy_high", float("nan")), ["threshold"]),
        (lambda: Rule("entropy_high", window=3), ["window"]),
        (lambda: Rule("entropy_spike", window=0), ["window"]),
        (lambda: Rule("entropy_spike", window=257, action="explode"), ["window", "action"]),
    ],
)
def test_a_bad_rule_names_its_field(make, fields):
    with pytest.raises(ParameterError) as refused:
        make()
    assert [name for name, _ in refused.value.violations] == fields
