"""What the tests of the whole ask of a client, again and again."""

from collections.abc import Iterable

from thermostat import (
    AdaptiveP,
    Bell,
    Edt,
    EntropyBand,
    EntropyEvent,
    EntropyFeedback,
    EntropyPolynomial,
    Finished,
    Fixed,
    Greedy,
    Mirostat,
    Output,
    Phase,
    Phased,
    Preset,
    Quadrant,
    Started,
    TargetEntropy,
)
from thermostat.events import Event, Token

PROMPT = "import os\n\n\nclass Parser:\n    def "
POLICIES = {
    "fixed": Fixed(0.9),
    "greedy": Greedy(),
    "entropy_band": EntropyBand(low_entropy=0.5, high_entropy=3.0),
    "edt": Edt(theta=1.0, min_temperature=0.2),
    "target_entropy": TargetEntropy(1.3, max_temperature=3.0),
    "entropy_feedback": EntropyFeedback(setpoint=1.2, half_life=6.0, kp=0.4),
    "entropy_feedback of surprisal": EntropyFeedback(measure="surprisal"),
    "mirostat": Mirostat(tau=1.5, eta=0.2),
    "mirostat of what is left": Mirostat(surprise="renormalized", temperature=1.1),
    "quadrant": Quadrant(low_low_top_k=5, high_high_top_p=0.8, high_high_min_p=0.05, entropy_gain=0.1),
    "adaptive_p": AdaptiveP(target=0.4),
    "bell": Bell(center=0.2),
    "entropy_polynomial": EntropyPolynomial(),
    "preset": Preset("entropix"),
    "phased": Phased(
        [
            Phase(Mirostat(), 10),
            Phase(EntropyFeedback(), "self"),
            Phase(AdaptiveP(), EntropyEvent(above=2.0, tokens=2)),
            Phase(Fixed(0.7)),
        ]
    ),
}
"""Every kind of policy, by a name for the test."""


def tokens(events: Iterable[Event]) -> list[Token]:
    """The tokens of a stream."""
    return [token for event in events if isinstance(event, Output) for token in event.tokens]


def run(events: Iterable[Event]) -> tuple[Started, list[Token], Finished, str]:
    """A stream taken apart: its start, its tokens, its end, its text."""
    taken = list(events)
    assert isinstance(taken[0], Started)
    assert isinstance(taken[-1], Finished)
    text = "".join(event.text_delta for event in taken if isinstance(event, Output))
    return taken[0], tokens(taken), taken[-1], text


def bits(found: Iterable[Token]) -> list[bytes]:
    """Everything that the stream told of each token, to be compared bit for bit."""
    return [token.SerializeToString(deterministic=True) for token in found]
