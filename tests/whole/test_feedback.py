"""The feedback holds its setpoint on a real model: what the product is named for."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.whole.runs import PROMPT, tokens
from thermostat import EntropyFeedback

SEEDS = 20
FIRST, LAST = 100, 400


@pytest.mark.parametrize("measure", ["final_entropy", "surprisal"])
@pytest.mark.parametrize("setpoint", [0.8, 1.4, 2.0])
def test_the_mean_over_a_run_is_the_setpoint(measure, setpoint, client):
    """Mean over tokens 100 to 400 of 20 seeds, within 5 %. It comes within 2 %; the seeds are fixed."""

    def mean(seed):
        policy = EntropyFeedback(setpoint=setpoint, measure=measure)
        stream = client.generate(
            PROMPT, policy=policy, seed=seed, max_output_tokens=LAST, ignore_eos=True, max_tokens_per_message=50
        )
        drawn = tokens(stream)[FIRST:]
        assert len(drawn) == LAST - FIRST
        values = [-t.logprob if measure == "surprisal" else t.sampling_info.final_entropy for t in drawn]
        return sum(values) / len(values)

    with ThreadPoolExecutor(SEEDS) as pool:
        means = list(pool.map(mean, range(SEEDS)))
    assert sum(means) / SEEDS == pytest.approx(setpoint, rel=0.05)
