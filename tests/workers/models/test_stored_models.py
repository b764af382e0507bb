"""Registered models of version 0.1: they unpickle beside the packages of today, and predict what they predicted then.

`stored/models/` holds the `model.pth` of packed models, and the logits that version 0.1 computed with them.
"""

from __future__ import annotations

import io
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.pytorch import pickle_module

STORED = Path(__file__).parents[1] / "stored" / "models"
EXPECTED: dict[str, dict[str, Any]] = json.loads((STORED / "expected.json").read_text())


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_model_of_version_0_1_predicts_what_it_predicted(kind: str) -> None:
    content = io.BytesIO(lzma.decompress((STORED / f"{kind}.pth.xz").read_bytes()))
    model = torch.load(content, weights_only=False, pickle_module=pickle_module)
    size = EXPECTED[kind]["size"]
    images = (torch.arange(2 * size * size) * 37 % 256).to(torch.uint8).reshape(2, 1, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), torch.tensor(EXPECTED[kind]["logits"]), rtol=1e-4, atol=1e-5)
