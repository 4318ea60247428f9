"""The command line: answers at once, says what is wrong, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import rass.cli
import rass.model
from rass.prompts import PromptSet


@pytest.fixture
def files(tmp_path: Path, make_prompts: Callable[..., PromptSet]) -> list[str]:
    """A model folder and prompt files, as arguments."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    for split in ("selection", "report"):
        make_prompts(split).save(tmp_path / f"{split}.jsonl")
    prompts = [word for one in ("selection", "report") for word in (f"--{one}", str(tmp_path / f"{one}.jsonl"))]
    return ["--model", str(model), *prompts, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "bundle")]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, world_judge: object) -> Callable[[object], None]:
    """Puts a model of the linear world where the command would load one."""

    def install(model: object) -> None:
        monkeypatch.setattr(rass.model, "load_model", lambda *_args, **_options: model)
        monkeypatch.setattr(rass.cli, "_judges", lambda *_args: (world_judge, world_judge))

    return install


@pytest.mark.parametrize("arguments", [["--help"], ["build-vectors", "--help"], ["--version"]])
def test_help_answers_without_torch(arguments: list[str]) -> None:
    program = (
        "import sys; from rass.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(sorted({'torch', 'transformers', 'numpy', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert done.stdout


def test_dry_run_says_what_would_be_built(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert rass.cli.build_vectors([*files, "--dry-run", "--json", "--prompts-per-cell", "1"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["model"]["id"] == "model"
    assert plan["splits"]["selection"]["by_language"]["en"] == {
        "attack": 16,
        "harmful": 16,
        "plain_benign": 2,
        "trigger_benign": 14,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out DIR"),
        (["--dry-run", "--model", "./nowhere"], "no folder './nowhere'"),
        (["--dry-run", "--model", "reference", "--report", "x.jsonl"], "both --selection and --report"),
    ],
)
def test_bad_input_is_exit_code_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    files: list[str],
) -> None:
    monkeypatch.setattr("rass.identity.reference_folder", lambda: Path(files[1]))
    assert rass.cli.build_vectors(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("place", ["folder", "file/bundle"])
def test_a_place_that_cannot_take_the_bundle_is_named_before_the_build(
    files: list[str], stand_in: Callable[[object], None], tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    stand_in(None)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    files[-1] = str(tmp_path / place)
    assert rass.cli.build_vectors(files) == 2
    assert "cannot take the bundle" in capsys.readouterr().err


def test_damaged_prompts_name_the_line(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(files[3])
    path.write_text(path.read_text(encoding="utf-8") + '{"id": "x"}\n', encoding="utf-8")
    assert rass.cli.main(["build-vectors", *files, "--dry-run"]) == 2
    assert f"{path}, line" in capsys.readouterr().err


def test_splits_that_share_requests_are_refused(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    files[5] = files[3]
    assert rass.cli.build_vectors([*files, "--dry-run"]) == 2
    assert "share" in capsys.readouterr().err


def test_build_prints_its_result(
    files: list[str],
    stand_in: Callable[[object], None],
    linear_world: Callable[..., object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand_in(linear_world())
    assert rass.cli.build_vectors([*files, "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["passed"] is True
    assert f"bundle {result['digest']} written" in captured.err
    assert rass.cli.build_vectors(files) == 0
    assert "over-refusal" in capsys.readouterr().out


def test_refused_validation_is_exit_code_3(
    files: list[str],
    stand_in: Callable[[object], None],
    linear_world: Callable[..., object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand_in(linear_world(deceived=True))
    assert rass.cli.build_vectors(files) == 3
    captured = capsys.readouterr()
    assert "not exported" in captured.err
    assert "harmful refusal rate falls" in captured.err
    assert not Path(files[-1]).exists()
