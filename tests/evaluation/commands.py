"""The command `eval.py` in this process, and the scores that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jaxmss.evaluation import MEASURES
from jaxmss.evaluation.command import main


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


def run_on_estimates(root: Path, *more) -> int:
    return run("--estimates", root / "estimates", "--data.root", root / "data", "--output", root / "out", *more)


def frames(file: Path) -> dict[str, dict[str, np.ndarray]]:
    stored = json.loads(file.read_text())
    return {
        target["name"]: {m: np.array([f["metrics"][m] for f in target["frames"]]) for m in MEASURES}
        for target in stored["targets"]
    }
