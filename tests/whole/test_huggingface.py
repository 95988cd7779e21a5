"""The logits processor in `generate` and the server over a socket: the same seed gives the same tokens and figures."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from adaptive import Penalties, RowSettings
from adaptive.huggingface import AdaptiveLogitsProcessor
from server.convert.policies import read_policy
from server.engine.loading import EMBEDDED
from tests.whole.runs import POLICIES, PROMPT, run
from thermostat import Fixed, Phase, Phased, Preset
from thermostat.policies import to_message

LENGTH = 40
FIRST_SEED = 100
"""Padding rounds the logits differently: seeds whose numbers lie a millionth beside a token's edge will not do."""
PROMPTS = [PROMPT, "x = ", "class Tree:\n    pass\n\n\ndef "]
MARKED = Phased([Phase(Fixed(1.2), "\n"), Phase(Preset("mirostat2.paper"), "e"), Phase(Fixed(0.4))])
FIGURES = [
    "original_entropy", "final_entropy", "effective_vocab_size", "top_token_prob", "temperature", "varentropy",
    "kept_mass", "scaled_entropy", "original_top_prob", "top_k", "top_p", "min_p",
]  # fmt: skip
PENALTIES = {"repetition": 1.1, "frequency": 0.1, "dry_multiplier": 0.5}


@pytest.fixture(scope="module")
def network():
    return AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype="float32")


@pytest.fixture(scope="module")
def tokenizer():
    made = AutoTokenizer.from_pretrained(EMBEDDED, padding_side="left")
    made.pad_token = made.eos_token
    return made


def assert_same(info, token):
    """Figures to the bits that differ between a padded batch here and the server's packed one."""
    told = token.sampling_info
    assert info.token_id == token.token_id
    for name in FIGURES:
        if told.HasField(name):
            assert getattr(info, name) == pytest.approx(getattr(told, name), rel=1e-3, abs=1e-4), name
    assert info.rank == token.rank
    assert info.logprob == pytest.approx(token.logprob, abs=1e-4)
    assert info.filtered_logprob == pytest.approx(token.filtered_logprob, abs=1e-4)
    if info.state and not told.policy_state.phases:
        assert sorted(info.state) == pytest.approx(sorted(told.policy_state.values.values()), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "penalties and xtc"])
def test_the_same_seed_gives_the_tokens_and_figures_of_the_server(plain, network, tokenizer, client):
    """One batch of every kind of policy, with left-padded prompts of different lengths; markers among the phases."""
    policies = [*POLICIES.values(), MARKED]
    settings, more = [], {} if plain else {"penalties": PENALTIES, "xtc_probability": 0.3, "top_p": 0.97}
    for seed, policy in enumerate(policies, FIRST_SEED):
        kind, filters = read_policy(to_message(policy), "policy", [])
        given = {} if plain else {"xtc_probability": 0.3, "top_p": 0.97}
        chosen = {name: getattr(filters, name) for name in filters.__slots__} | given
        penalties = Penalties() if plain else Penalties(**PENALTIES)
        settings.append(RowSettings(kind, type(filters)(**chosen), seed, penalties=penalties))
    prompts = [PROMPTS[row % len(PROMPTS)] for row in range(len(policies))]
    if not plain:  # the server's default breakers are text; here they are token ids
        more["penalties"] = PENALTIES | {"dry_sequence_breakers": ["\x00"]}
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    processor = AdaptiveLogitsProcessor(settings, tokenizer=tokenizer)
    with torch.no_grad():
        sequences = network.generate(**inputs, **processor.arguments(inputs["attention_mask"]), max_new_tokens=LENGTH)
    records = processor.finish(sequences)
    for seed, (policy, prompt, infos) in enumerate(zip(policies, prompts, records, strict=True), FIRST_SEED):
        _, tokens, _, _ = run(client.generate(prompt, policy=policy, seed=seed, max_output_tokens=LENGTH, **more))
        assert [info.token_id for info in infos] == [token.token_id for token in tokens]
        for info, token in zip(infos, tokens, strict=True):
            assert_same(info, token)
    assert sum(map(len, records)) > 10 * len(policies)
