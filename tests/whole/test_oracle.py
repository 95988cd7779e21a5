"""Every number of the sampling info of thousands of streamed tokens, against float64, over a real socket."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from server.engine.loading import EMBEDDED
from tests import oracle
from tests.whole.walkers import (
    AdaptivePWalker,
    FeedbackWalker,
    MirostatWalker,
    PhasedWalker,
    QuadrantWalker,
    Walker,
)
from thermostat import (
    AdaptiveP,
    Bell,
    Edt,
    EntropyBand,
    EntropyFeedback,
    EntropyPolynomial,
    Fixed,
    Greedy,
    Mirostat,
    Output,
    Phase,
    Phased,
    Preset,
    Quadrant,
    TargetEntropy,
)

TOKENS = 80
PROMPT = "import os\n\n\nclass Parser:\n    def "
FILTERS = [{}, {"top_k": 12}, {"top_p": 0.85}, {"min_p": 0.04}, {"top_k": 40, "top_p": 0.95, "min_p": 0.01}]
RARER = [{"typical_p": 0.9}, {"epsilon_cutoff": 0.002, "eta_cutoff": 0.01}, {"top_n_sigma": 1.5}, {"top_h": 0.6},
         {"p_less": True}]  # fmt: skip
TOLERANCE = 1e-3
CORNERS = {
    (False, False): {"temperature": 0.7, "top_k": 5},
    (False, True): {"temperature": 1.2},
    (True, False): {"temperature": 1.0},
    (True, True): {"temperature": 0.6, "top_p": 0.8},
}


def at(temperature):
    """A walker with one temperature."""
    return lambda facts: temperature


def surprisal(facts, step, token):
    return -step.log_p[token]


POLICIES = {
    "fixed": (Fixed(0.9), lambda: Walker(at(0.9))),
    "greedy": (Greedy(), lambda: Walker(at(0.0))),
    "band": (
        EntropyBand(low_entropy=0.5, high_entropy=3.0),
        lambda: Walker(lambda f: oracle.band_temperature(f["h"], 0.5, 3.0, 1.3, 0.7, 1.0)),
    ),
    "band as a share": (
        Preset("qr.edt"),
        lambda: Walker(lambda f: oracle.clip(0.8 * (f["h"] / math.log(len(f["z"]))) ** 0.5, 0.1, 2.0)),
    ),
    "edt": (
        Edt(theta=1.0, min_temperature=0.2),
        lambda: Walker(lambda f: oracle.edt_temperature(f["h"], 1.0, 1.0, 0.8, 0.2, 2.0)),
    ),
    "target": (
        TargetEntropy(1.3, max_temperature=3.0),
        lambda: Walker(lambda f: oracle.target_temperature(f["z"], 1.3, 0.1, 3.0)),
    ),
    "feedback of final entropy": (EntropyFeedback(), lambda: FeedbackWalker(at(1.0))),
    "feedback of surprisal": (
        EntropyFeedback(setpoint=1.1, half_life=5.0, kp=0.5, ki=0.05, measure="surprisal", max_temperature=1.3),
        lambda: FeedbackWalker(at(1.0), oracle.Feedback(1.1, 5.0, 0.5, 0.05, 1.0, 0.1, 1.3), surprisal),
    ),
    "mirostat": (Mirostat(tau=1.5, eta=0.2), lambda: MirostatWalker(at(1.0), 1.5, 0.2)),
    "mirostat of what is left": (
        Mirostat(surprise="renormalized", temperature=1.2),
        lambda: MirostatWalker(at(1.2), model=False),
    ),
    "quadrant": (
        Quadrant(low_low_top_k=5, high_high_top_p=0.8),
        lambda: QuadrantWalker(at(1.0), corners=CORNERS),
    ),
    "adaptive_p": (AdaptiveP(target=0.4), lambda: AdaptivePWalker(at(1.0), 0.4)),
    "bell": (
        Bell(),
        lambda: Walker(lambda f: oracle.bell_temperature(f["h"] / math.log(len(f["z"])), 0.6, 0.6, 0.3, 0.15)),
    ),
    "polynomial": (EntropyPolynomial(), lambda: Walker(lambda f: oracle.polynomial_temperature(f["h"]))),
    "phased": (
        Phased([Phase(Mirostat(), 30), Phase(AdaptiveP(), 20), Phase(EntropyFeedback())]),
        lambda: PhasedWalker(
            at(1.0), [(MirostatWalker(at(1.0)), 30), (AdaptivePWalker(at(1.0)), 20), (FeedbackWalker(at(1.0)), 0)]
        ),
    ),
}
"""A policy, and what should come of it."""
CASES = [(name, filters) for name in POLICIES for filters in FILTERS] + [("fixed", filters) for filters in RARER]


@pytest.fixture(scope="module")
def network():
    return AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32).eval()


def stream(client, policy, filters, seed):
    events = client.generate(
        PROMPT, policy=policy, seed=seed, max_output_tokens=TOKENS, ignore_eos=True, candidates=5, **filters
    )
    return [token for event in events if isinstance(event, Output) for token in event.tokens]


@pytest.mark.parametrize(("name", "filters"), CASES, ids=[f"{n}-{'+'.join(f) or 'none'}" for n, f in CASES])
def test_streamed_figures_equal_the_oracles(name, filters, client, network):
    """80 streams of 80 tokens. The model's logits for the streamed tokens are computed here, by transformers.

    Counts are exact unless a token lies within 2e-5 of the edge of a filter: there the logits' own rounding decides.
    A temperature that was solved is compared by the entropy it gives, for where varentropy is small it is ill-defined.
    State is the walker's own, from the first token on: what is compared at token 80 has gone through 79 updates.
    """
    policy, make = POLICIES[name]
    walker = make()
    tokens = stream(client, policy, filters, seed=len(filters) + 7)
    assert len(tokens) == TOKENS
    prompt = client_tokens(client)
    ids = torch.tensor([prompt + [token.token_id for token in tokens]])
    with torch.inference_mode():
        logits = network(ids).logits[0, len(prompt) - 1 : -1].numpy().astype(np.float64)
    for z, token in zip(logits, tokens, strict=True):
        log_p = oracle.log_softmax(z)
        facts = {"z": z, "h": oracle.entropy(log_p), "v": oracle.varentropy(log_p)}
        decided = walker.decide(facts)
        expected = check(token, facts, decided, filters)
        walker.absorb(facts, expected, token.token_id)


def check(token, facts, decided, filters):
    """Hold one token against the oracle; the oracle's step, with the server's temperature."""
    info, z = token.sampling_info, facts["z"]
    wished, greedy = decided["temperature"], decided["temperature"] == 0
    own = {key: value for key, value in decided.items() if key not in ("temperature", "reshape")}
    expected = oracle.step(z, 1.0 if greedy else info.temperature, **(filters | own))
    if "reshape" in decided:
        reshape(expected, decided["reshape"])
    if greedy:
        assert token.token_id == int(z.argmax())
        assert (info.final_entropy, info.effective_vocab_size, info.top_token_prob) == (0.0, 1, 1.0)
        assert not info.HasField("temperature")
        assert not info.HasField("scaled_entropy")
        assert info.HasField("final_entropy")
    else:
        solved = info.HasField("infeasible") and not info.saturated
        if solved:
            assert expected.scaled_entropy == pytest.approx(1.3, abs=TOLERANCE)
        else:
            assert info.temperature == pytest.approx(wished, abs=TOLERANCE)
        close(info, expected)
        assert token.filtered_logprob == pytest.approx(expected.log_q[token.token_id], abs=TOLERANCE)
    assert info.original_entropy == pytest.approx(facts["h"], abs=TOLERANCE)
    assert info.entropy_change == pytest.approx(info.final_entropy - info.original_entropy, abs=1e-5)
    assert info.varentropy == pytest.approx(expected.varentropy, abs=TOLERANCE)
    assert info.original_top_prob == pytest.approx(expected.original_top_prob, abs=TOLERANCE)
    assert info.original_vocab_size == len(z)
    assert info.final_perplexity == pytest.approx(math.exp(info.final_entropy), rel=1e-5)
    assert token.logprob == pytest.approx(expected.log_p[token.token_id], abs=TOLERANCE)
    assert token.rank == pytest.approx(1 + (z > z[token.token_id]).sum(), abs=near(z, token.token_id))
    ranked = np.sort(expected.log_p)[::-1][:5]
    assert [c.logprob for c in token.candidates] == pytest.approx(list(ranked), abs=TOLERANCE)
    for field in ("top_k", "top_p", "min_p"):
        applied = own.get(field, filters.get(field))
        assert info.HasField(field) == (applied is not None)
        if applied is not None:
            assert getattr(info, field) == pytest.approx(applied)
    return expected


def reshape(expected, change):
    """Put the policy's own distribution in place of the filtered one."""
    log_q = change(expected.log_q)
    possible = np.isfinite(log_q)
    expected.log_q = log_q
    expected.final_entropy = oracle.entropy(log_q[possible])
    expected.top_token_prob = float(np.exp(log_q.max()))


def close(info, expected):
    """The figures after the filters; all of them jump with the count, so the count comes first."""
    if info.effective_vocab_size != expected.effective_vocab_size:
        assert expected.margin < 2e-5
        return
    for field in ("final_entropy", "scaled_entropy", "top_token_prob", "kept_mass"):
        assert getattr(info, field) == pytest.approx(getattr(expected, field), abs=TOLERANCE), field


def near(z, token):
    """How many tokens lie within rounding of this one: they may rank either way."""
    return int((np.abs(z - z[token]) < 1e-4).sum()) - 1


def client_tokens(client):
    """The prompt's token ids, by the embedded model's tokenizer."""
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(EMBEDDED)(PROMPT)["input_ids"]
    assert list(client.count_tokens(PROMPT).token_ids) == ids
    return ids
