"""vLLM's CPU build, by the steps of its engine."""

import argparse
import os

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "2"
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, sorted(os.sched_getaffinity(0))))
os.environ["VLLM_NO_USAGE_STATS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import vllm
from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.sampling_params import RequestOutputKind

from benchmarks.worker import TEMPERATURE, TOP_P, Job, Outcome, Watch, work


def main() -> None:
    """Work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("dtype")
    given = parser.parse_args()
    engine = LLMEngine.from_engine_args(
        EngineArgs(
            given.model,
            dtype=given.dtype,
            enable_prefix_caching=False,
            skip_tokenizer_init=True,
            max_num_seqs=64,
        )
    )
    done = 0

    def run(job: Job) -> Outcome:
        nonlocal done
        watch = Watch(job)
        for stream, prompt in enumerate(job.prompts):
            params = SamplingParams(
                temperature=TEMPERATURE if job.setting == "fixed" else 0.0,
                top_p=TOP_P if job.setting == "fixed" else 1.0,
                seed=None,
                max_tokens=job.tokens,
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            )
            engine.add_request(f"{done} {stream}", {"prompt_token_ids": prompt}, params)
        done += 1
        while engine.has_unfinished_requests():
            for output in engine.step():
                watch.take(int(output.request_id.split()[1]), *output.outputs[0].token_ids)
        return watch.outcome

    work(f"vLLM {vllm.__version__}", run)


if __name__ == "__main__":
    main()
