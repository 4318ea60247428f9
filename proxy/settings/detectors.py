"""Who judges requests and recovered answers."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, SecretStr

from proxy.settings.group import Group, http_url

__all__ = ["BoundaryKind", "DetectorSettings", "JudgeSettings"]


class BoundaryKind(StrEnum):
    """What judges requests, and what judges recovered answers."""

    ACTIVATION = "activation"
    JUDGE = "judge"
    ONNX = "onnx"


class DetectorSettings(Group):
    """Detectors."""

    deadline_s: PositiveFloat = Field(
        default=10.0, description="Longest wait for one reading of the boundary or of an answer."
    )
    capture_tokens: PositiveInt = Field(
        default=1024,
        description="Dialect vllm-lens: longest conversation, in tokens, whose activations are read; the engine sends "
        "those of every token.",
    )
    boundary: BoundaryKind = Field(
        default=BoundaryKind.ACTIVATION,
        description="Who judges requests. activation: the served model's own coordinates, through the bundle. judge: a "
        "guard model. onnx: a text classifier.",
    )
    answer_harm: BoundaryKind = Field(
        default=BoundaryKind.ACTIVATION, description="Who judges recovered answers; the same kinds."
    )
    boundary_onnx: Path | None = Field(default=None, description="Folder of the classifier of requests.")
    answer_harm_onnx: Path | None = Field(default=None, description="Folder of the classifier of answers.")
    onnx_threads: PositiveInt = Field(default=1, description="CPU threads of one inference.")


class JudgeSettings(Group):
    """A guard model that is asked a yes-or-no question, for detectors of kind judge."""

    url: Annotated[str, AfterValidator(http_url)] | None = Field(
        default=None, description="Address of its OpenAI-compatible server; unset asks the served model itself."
    )
    api_key: SecretStr | None = Field(default=None, description="Key of its server.")
    model: str | None = Field(default=None, description="Its name there; unset takes the name in the request.")
    yes: str = Field(default="yes", min_length=1, description="Answers that mean harmful, separated by commas.")
    no: str = Field(default="no", min_length=1, description="Answers that mean harmless, separated by commas.")
    timeout_s: PositiveFloat = Field(default=5.0, description="Longest wait for its answer, in seconds.")
    benign_below: float | None = Field(
        default=None, description="A request below this logit (log-odds of yes) is benign; unset: none is."
    )
    harmful_above: float | None = Field(
        default=None, description="A request above this logit is harmful; unset: none is."
    )
    answer_benign_below: float | None = Field(
        default=None, description="A recovered answer below this logit is harmless; unset: none is."
    )
    answer_harmful_above: float | None = Field(
        default=None, description="A recovered answer above this logit is harmful; unset: none is."
    )
