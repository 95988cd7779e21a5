"""Settings known by a name: what users of other programs have there, in our terms.

Entropies of programs that count in bits are turned into nats: 1 bit is ln 2 nats, 1 bit squared is (ln 2)^2.
"""

import math
from dataclasses import dataclass

from adaptive.filters import Filters
from adaptive.policies import Edt, EntropyBand, Fixed, Mirostat, Policy, Quadrant

_BIT = math.log(2)


@dataclass(frozen=True, slots=True)
class Preset:
    """A policy and filters. summary: where the numbers come from, and what differs here."""

    summary: str
    policy: Policy
    filters: Filters = Filters()


def _dynatemp(low: float, high: float) -> EntropyBand:
    return EntropyBand(0.0, 1.0, low, high, normalizer="possible")


PRESETS: dict[str, Preset] = {
    "llamacpp.dynatemp": Preset(
        "llama.cpp's dynamic temperature with temp 0.8 and dynatemp_range 0.5. The same temperature as there without "
        "filters before it; its filters come first and its entropy is that of what they leave.",
        _dynatemp(0.3, 1.3),
    ),
    "ooba.dynatemp": Preset(
        "text-generation-webui's dynamic temperature with dynatemp_low 0.5 and dynatemp_high 1.5.",
        _dynatemp(0.5, 1.5),
    ),
    "edt.paper": Preset(
        "The starting point of the EDT paper (arXiv 2403.14541): T0 0.6, theta 0.1, N 0.8, with its top_p 0.95.",
        Edt(0.6, 0.1, 0.8),
        Filters(top_p=0.95),
    ),
    "qr.edt": Preset(
        "qr-sampler's EDT, 0.8 * (entropy / ln V) ^ 0.5 within 0.1 and 2.",
        EntropyBand(0.0, 1.0, 0.0, 0.8, 0.5, "vocabulary", 0.1, 2.0),
    ),
    "mirostat2.paper": Preset(
        "Mirostat 2 with the numbers of its authors' code: tau 3 bits, learning rate 1, the model's own surprisal.",
        Mirostat(3 * _BIT, 1.0),
    ),
    "mirostat2.llamacpp": Preset(
        "llama.cpp's Mirostat 2: tau 5 bits, eta 0.1, temp 0.8, the surprisal of what is left after truncation.",
        Mirostat(5 * _BIT, 0.1, surprise="renormalized", temperature=0.8),
    ),
    "entropix": Preset(
        "entropix's sampler of October 2024 with its thresholds in nats and its attention terms at 0, for there are no "
        "attention statistics here. It has no clarifying question and no best of five; its min_p has no effect there.",
        Quadrant(
            low_entropy=0.1 * _BIT,
            high_entropy=5.0 * _BIT,
            low_varentropy=0.1 * _BIT**2,
            high_varentropy=5.0 * _BIT**2,
            temperature=0.666,
            top_k=27,
            top_p=0.9,
            low_low_temperature=0.666,
            low_low_top_k=1,
            low_high_temperature=0.666 * 1.2,
            low_high_top_k=40,
            low_high_top_p=0.9,
            high_low_temperature=0.666 * 1.3,
            high_low_top_k=27,
            high_low_top_p=0.9,
            high_high_temperature=2.0,
            high_high_top_k=27,
            high_high_top_p=0.9,
            entropy_gain=0.3 / _BIT,
            varentropy_gain=0.3 / _BIT**2,
            min_temperature=0.01,
            max_temperature=10.0,
        ),
    ),
    "top_h.paper": Preset(
        "The top-H paper (arXiv 2509.02510): alpha 0.4 of the entropy, measured on the renormalised set.",
        Fixed(),
        Filters(top_h=0.4, top_h_variant="paper"),
    ),
    "top_h.hf": Preset(
        "Hugging Face's top_h 0.4: partial sums over the 100 most likely tokens, not renormalised.",
        Fixed(),
        Filters(top_h=0.4, top_h_variant="hugging_face"),
    ),
}
"""Every preset by its name."""
