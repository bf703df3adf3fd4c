"""How a component of this package writes its `config.json`: as the diffusers class that can load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

FACTS_KEY = "_sd_pipeline"
"""Key of what diffusers has no word for, in `model_index.json` and in a `config.json`; diffusers ignores it."""


def facts_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give what was recorded about a component, or nothing.

    Args:
        config (`Mapping[str, Any]`): The component's `config`.

    Returns:
        `dict[str, Any]`: A copy.
    """
    facts = config.get(FACTS_KEY)
    return dict(facts) if isinstance(facts, Mapping) else {}


def record_facts(component: Any, **facts: Any) -> None:
    """Add facts to the `config` of a component, in place. They are saved with it, and change nothing that it does.

    Args:
        component (`ConfigMixin`): A model of ours or of diffusers.
        **facts: What JSON can hold.
    """
    component.register_to_config(**{FACTS_KEY: {**facts_of(component.config), **facts}})


class StockConfigMixin:
    """Write the configuration of a diffusers class instead of one's own.

    State-dict keys are those of the diffusers class too, so a folder saved here loads in plain diffusers, also through
    `AutoModel`, which refuses class names that diffusers does not know. Reading needs nothing: `from_pretrained`
    builds the class that it is called on, whatever name the file has. Put this before `ConfigMixin` among the bases.
    """

    stock_class_name: ClassVar[str]
    added_config_defaults: ClassVar[dict[str, Any]] = {}
    """Keys that diffusers does not know, with their defaults. At its default such a key is not written."""

    def to_json_string(self) -> str:
        """Serialise the configuration.

        `_name_or_path` is left out: it is the folder of whoever trained or loaded the component.

        Returns:
            `str`: JSON with the keys of the diffusers class, and those of ours that are not at their default.
        """
        config = json.loads(super().to_json_string())  # type: ignore[misc]
        config["_class_name"] = self.stock_class_name
        config.pop("_name_or_path", None)
        for key, default in self.added_config_defaults.items():
            if config.get(key) == default:
                del config[key]
        return json.dumps(config, indent=2, sort_keys=True) + "\n"
