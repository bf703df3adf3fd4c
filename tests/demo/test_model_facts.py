from __future__ import annotations

import pytest

from sd_pipeline import SDPipeline
from sd_pipeline.demo.model_facts import NO_COST, ModelFacts, example_prompts, read_card, training_cost
from sd_pipeline.pretrained_models import DEFAULT_MODEL
from tests.components import tiny_components, tiny_unconditional_unet

CARD = """---
license: mit
co2_eq_emissions:
  emissions: 12.5
  source: estimated
widget:
- text: a cat
- text: a dog
- src: no prompt
---

# A model

It takes: some time.

```yaml
hardware: not this one
evaluation:
  validation_prompts: [a fish]
```

- **Energy:** 0.031 kWh, estimated. How is told at length.
| hardware | one GPU |

| stage | updates | time |
|---|---|---|
| a | 10 | 0:50:29 |
| b | 20 | 1 day, 1:00:01 |

Time flies.
"""


def test_cost():
    assert training_cost(CARD) == (
        "energy: 0.031 kWh, estimated",
        "hardware: one GPU",
        "training time: 25 h 50 min",
        "CO2: 12.5 g",
    )


@pytest.mark.parametrize("card", ["", "# Words\n\nNo numbers.", "---\n: [broken\n---\n", "---\n- a list\n---\n"])
def test_cards_that_tell_nothing(card):
    assert training_cost(card) == ()
    assert example_prompts(card) == ()


def test_emissions_as_a_number():
    assert training_cost("---\nco2_eq_emissions: 3\n---\n") == ("CO2: 3 g",)


def test_example_prompts():
    assert example_prompts(CARD) == ("a cat", "a dog")
    without_widget = CARD.replace("widget", "other")
    assert example_prompts(without_widget) == ("a fish",)
    call = 'image = pipe(\n    prompt="a bird", guidance_scale=2.0)'
    assert example_prompts(without_widget.replace("a fish", "") + call) == ("a bird",)


def test_the_shipped_model():
    facts = ModelFacts.of(DEFAULT_MODEL, SDPipeline.from_pretrained(DEFAULT_MODEL))
    assert facts.summary().startswith("**shapes-64** · 5.6 million parameters · pictures of 64x64 pixels · ")
    assert "hardware: two CPU cores" in facts.summary()
    assert "training time: 3 h 50 min" in facts.summary()
    assert len(facts.example_prompts) == 8


def test_a_model_without_card_and_prompts(tmp_path):
    components = {**tiny_components(), "unet": tiny_unconditional_unet(), "text_encoder": None, "tokenizer": None}
    pipe = SDPipeline(**components)
    (tmp_path / "mine").mkdir()
    facts = ModelFacts.of(str(tmp_path / "mine"), pipe)
    assert facts.summary().startswith("**mine** · 0.")
    assert facts.summary().endswith(NO_COST)
    assert facts.example_prompts == ()


def test_a_card_that_cannot_be_had(tmp_path):
    assert read_card("nobody/nothing") == ""
    (tmp_path / "README.md").write_bytes(b"\xff\xfe\x00")
    assert read_card(str(tmp_path)) == ""
