"""Every number of the sampling info of 2,000 streamed tokens, against float64, over a real socket."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from server.engine.loading import EMBEDDED
from tests import oracle
from thermostat import Edt, EntropyBand, Fixed, Greedy, Output, TargetEntropy

TOKENS = 80
PROMPT = "import os\n\n\nclass Parser:\n    def "
POLICIES = {
    "fixed": Fixed(0.9),
    "greedy": Greedy(),
    "band": EntropyBand(low_entropy=0.5, high_entropy=3.0),
    "edt": Edt(theta=1.0, min_temperature=0.2),
    "target": TargetEntropy(1.3, max_temperature=3.0),
}
FILTERS = [{}, {"top_k": 12}, {"top_p": 0.85}, {"min_p": 0.04}, {"top_k": 40, "top_p": 0.95, "min_p": 0.01}]
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def network():
    return AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32).eval()


def wished(policy, z, h):
    """The temperature that a policy should have chosen, by the oracle's own formulas."""
    if isinstance(policy, Fixed):
        return policy.temperature
    if isinstance(policy, EntropyBand):
        return oracle.band_temperature(h, policy.low_entropy, policy.high_entropy, 1.3, 0.7, 1.0)
    if isinstance(policy, Edt):
        return oracle.edt_temperature(h, 1.0, policy.theta, 0.8, policy.min_temperature, 2.0)
    return oracle.target_temperature(z, policy.target_entropy, 0.1, policy.max_temperature)


def stream(client, policy, filters, seed):
    events = client.generate(
        PROMPT, policy=policy, seed=seed, max_output_tokens=TOKENS, ignore_eos=True, candidates=5, **filters
    )
    return [token for event in events if isinstance(event, Output) for token in event.tokens]


@pytest.mark.parametrize("filters", FILTERS, ids=lambda f: "+".join(f) or "none")
@pytest.mark.parametrize("name", POLICIES)
def test_streamed_figures_equal_the_oracles(name, filters, client, network):
    """25 streams of 80 tokens. The model's logits for the streamed tokens are computed here, by transformers.

    Counts are exact unless a token lies within 2e-5 of the edge of a filter: there the logits' own rounding decides.
    A temperature that was solved is compared by the entropy it gives, for where varentropy is small it is ill-defined.
    """
    policy = POLICIES[name]
    tokens = stream(client, policy, filters, seed=len(filters) + 7)
    assert len(tokens) == TOKENS
    prompt = client_tokens(client)
    ids = torch.tensor([prompt + [token.token_id for token in tokens]])
    with torch.inference_mode():
        logits = network(ids).logits[0, len(prompt) - 1 : -1].numpy().astype(np.float64)
    for z, token in zip(logits, tokens, strict=True):
        info = token.sampling_info
        h = oracle.entropy(oracle.log_softmax(z))
        greedy = isinstance(policy, Greedy)
        temperature = 1.0 if greedy else info.temperature
        expected = oracle.step(z, temperature, **filters)
        if greedy:
            assert token.token_id == int(z.argmax())
            assert (info.final_entropy, info.effective_vocab_size, info.top_token_prob) == (0.0, 1, 1.0)
            assert not info.HasField("temperature")
            assert not info.HasField("scaled_entropy")
            assert info.HasField("final_entropy")
        else:
            if not isinstance(policy, TargetEntropy):
                assert info.temperature == pytest.approx(wished(policy, z, h), abs=TOLERANCE)
            elif not info.saturated:
                assert expected.scaled_entropy == pytest.approx(policy.target_entropy, abs=TOLERANCE)
            else:
                assert info.temperature == pytest.approx(wished(policy, z, h), abs=TOLERANCE)
            close(info, expected)
            assert token.filtered_logprob == pytest.approx(expected.log_q[token.token_id], abs=TOLERANCE)
        assert info.original_entropy == pytest.approx(h, abs=TOLERANCE)
        assert info.entropy_change == pytest.approx(info.final_entropy - info.original_entropy, abs=1e-5)
        assert info.varentropy == pytest.approx(expected.varentropy, abs=TOLERANCE)
        assert info.original_top_prob == pytest.approx(expected.original_top_prob, abs=TOLERANCE)
        assert info.original_vocab_size == len(z)
        assert info.final_perplexity == pytest.approx(math.exp(info.final_entropy), rel=1e-5)
        assert token.logprob == pytest.approx(expected.log_p[token.token_id], abs=TOLERANCE)
        assert token.rank == pytest.approx(1 + (z > z[token.token_id]).sum(), abs=near(z, token.token_id))
        ranked = np.sort(expected.log_p)[::-1][:5]
        assert [c.logprob for c in token.candidates] == pytest.approx(list(ranked), abs=TOLERANCE)
        for field, value in filters.items():
            assert getattr(info, field) == pytest.approx(value)


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
