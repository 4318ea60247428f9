"""What each engine can express, and what a bundle adds for those that can only add."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detectors.bundle import BundleError, load
from detectors.dialects import EXPRESSIBLE, DialectName, why_inexpressible
from detectors.manifest import SteeringForm, SteeringSpan


def test_every_dialect_is_described():
    assert set(EXPRESSIBLE) == set(DialectName)


@pytest.mark.parametrize("form", list(SteeringForm))
@pytest.mark.parametrize("span", list(SteeringSpan))
@pytest.mark.parametrize("dialect", list(DialectName))
def test_a_bundle_is_expressible_exactly_where_its_form_and_span_are(manifest, form, span, dialect):
    changed = replace(manifest, steering=replace(manifest.steering, form=form, span=span))
    can = EXPRESSIBLE[dialect]
    reason = why_inexpressible(changed, dialect)
    assert (reason is None) == (form in can.forms and span in can.spans)


def test_a_control_vector_holds_no_row_for_the_first_block(manifest):
    first = replace(manifest.vectors["refusal-en"], layers=(0,))
    changed = replace(
        manifest,
        vectors={**manifest.vectors, "refusal-en": first},
        steering=replace(manifest.steering, span=SteeringSpan.EVERY_TOKEN),
    )
    assert "layers from 1 on" in (why_inexpressible(changed, DialectName.PAIR) or "")
    assert why_inexpressible(changed, DialectName.HOTWIRE) is None


def test_strength_one_adds_minus_scale_times_the_direction(tmp_path, manifest, write_bundle, vectors):
    write_bundle(tmp_path / "bundle", manifest)
    bundle = load(tmp_path / "bundle")
    np.testing.assert_allclose(bundle.addition("refusal-en"), -3.125 * vectors["refusal-en"], rtol=1e-6)
    assert bundle.addition("refusal-zh").dtype == np.float32


def test_nothing_added_stands_for_an_ablation(tmp_path, manifest, write_bundle):
    ablating = replace(manifest, steering=replace(manifest.steering, form=SteeringForm.ABLATE))
    write_bundle(tmp_path / "bundle", ablating)
    with pytest.raises(BundleError, match="steers by ablate"):
        load(tmp_path / "bundle").addition("refusal-en")
