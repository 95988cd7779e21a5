"""Every served family, through a real server: greedy decoding in a ragged batch equals `generate` alone."""

import concurrent.futures
import random

import pytest
import torch
from transformers import AutoModelForCausalLM

from server.config import Config
from server.engine.loading import ModelSource, RefusedModel, load
from tests import models
from tests.whole.conftest import inside
from thermostat import Client, Greedy, Output


def requests(seed):
    """Twelve prompts of 1 to 60 tokens that want 5 to 40 tokens: with 8 rows they join and leave at many steps."""
    chance = random.Random(seed)
    return [
        (
            [chance.randrange(1, models.VOCAB) for _ in range(chance.choice([1, 2, 9, 23, 40, 60]))],
            chance.randrange(5, 41),
        )
        for _ in range(12)
    ]


def alone(network, prompt, most):
    """Greedy tokens of transformers' own generate."""
    with torch.inference_mode():
        out = network.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=most, eos_token_id=None)
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", models.FAMILIES)
def test_a_ragged_batch_equals_generate_alone(family, model_folder):
    folder = model_folder(family)
    wanted = requests(family)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = [alone(network, prompt, most) for prompt, most in wanted]
    assert len({tuple(tokens) for tokens in expected}) > 6, "the model is too dull to tell rows apart"
    config = Config(model=str(folder), compile=False, port=0, max_rows=8, prefill_chunk=16)
    with inside(config) as address, Client(address) as client:
        assert client.model().architecture == family

        def stream(request):
            prompt, most = request
            events = client.generate(prompt, policy=Greedy(), max_output_tokens=most, ignore_eos=True)
            return [token.token_id for event in events if isinstance(event, Output) for token in event.tokens]

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            got = list(pool.map(stream, wanted))
    assert got == expected


@pytest.mark.parametrize("family", models.REFUSED)
def test_what_cannot_be_served_is_refused_with_a_sentence(family, model_folder):
    with pytest.raises(RefusedModel, match=models.REFUSED[family][1]) as refused:
        load(ModelSource(str(model_folder(family))))
    assert "\n" not in str(refused.value)


def test_a_model_that_is_not_there_is_refused_with_a_sentence(tmp_path):
    with pytest.raises(RefusedModel, match="no model that can be read"):
        load(ModelSource(str(tmp_path)))
    with pytest.raises(RefusedModel, match="device"):
        load(ModelSource(device="cuda:77"))
    with pytest.raises(RefusedModel, match="device must be"):
        load(ModelSource(device="abacus"))
