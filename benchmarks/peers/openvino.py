"""OpenVINO GenAI's continuous batching, by its steps. Keys and values are kept in the type of the weights; its default
of 8 bits would be another computation."""

import argparse
from importlib.metadata import version
from pathlib import Path

import numpy
from openvino import Tensor
from openvino_genai import ContinuousBatchingPipeline, GenerationConfig, SchedulerConfig

from benchmarks.worker import TEMPERATURE, THREADS, TOP_P, Job, Outcome, Watch, work

_TYPES = {"float32": "f32", "bfloat16": "bf16"}


def main() -> None:
    """Work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("dtype")
    given = parser.parse_args()
    scheduler = SchedulerConfig()
    scheduler.max_num_seqs, scheduler.max_num_batched_tokens, scheduler.cache_size = 64, 2048, 2
    scheduler.enable_prefix_caching = False
    properties = {
        "INFERENCE_PRECISION_HINT": _TYPES[given.dtype],
        "KV_CACHE_PRECISION": _TYPES[given.dtype],
        "INFERENCE_NUM_THREADS": THREADS,
    }
    pipeline = ContinuousBatchingPipeline(given.model / "openvino", scheduler, "CPU", properties)

    def run(job: Job) -> Outcome:
        watch = Watch(job)
        handles = []
        for stream, prompt in enumerate(job.prompts):
            config = GenerationConfig(max_new_tokens=job.tokens, ignore_eos=True)
            if job.setting == "fixed":
                config.do_sample, config.temperature, config.top_p, config.rng_seed = True, TEMPERATURE, TOP_P, stream
            handles.append(pipeline.add_request(stream, Tensor(numpy.array([prompt], dtype=numpy.int64)), config))
        while pipeline.has_non_finished_requests():
            pipeline.step()
            for stream, handle in enumerate(handles):
                while handle.can_read():
                    for output in handle.read().values():
                        watch.take(stream, *output.generated_ids)
        return watch.outcome

    work(f"openvino-genai {version('openvino-genai')}", run)


if __name__ == "__main__":
    main()
