"""Installs the example package into a folder, as pip would into an environment."""

import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent


def install(folder: Path) -> Path:
    """The folder inside `folder` that, on the path, holds the installed package. Needs no network."""
    shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    target = folder / "site"
    offline = ["--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", *offline, "--target", target, folder / "source"]
    subprocess.run(command, check=True)
    return target
