"""Hugging Face `generate`: one batch, which reports nothing but tokens."""

import argparse
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

from benchmarks.worker import TEMPERATURE, TOP_P, Job, Outcome, Watch, work

SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "fixed": {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "top_k": 0},
}


class Clock(StoppingCriteria):
    """Never stops; notes when each token came."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        for row, token in enumerate(input_ids[:, -1].tolist()):
            self.watch.take(row, token)
        return torch.zeros(len(input_ids), dtype=torch.bool)


def main() -> None:
    """Work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("dtype")
    given = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=given.dtype).eval()
    model.generation_config.eos_token_id = None

    def run(job: Job) -> Outcome:
        prompts = torch.tensor(job.prompts)
        watch = Watch(job)
        model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=job.tokens,
            stopping_criteria=StoppingCriteriaList([Clock(watch)]),
            **SETTINGS[job.setting],
        )
        return watch.outcome

    with torch.inference_mode():
        work(f"transformers {transformers.__version__}", run)


if __name__ == "__main__":
    main()
