"""What a configuration says for the model card alone. Imports nothing of the project but the other blocks."""

from __future__ import annotations

from dataclasses import dataclass

from training.config_stages import require

# Identifiers that the Hub knows (https://huggingface.co/docs/hub/repositories-licenses).
# fmt: off
HUB_LICENSES = frozenset((
    "afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "creativeml-openrail-m",
    "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2",
    "fair-noncommercial-research-license", "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "grok2-community",
    "h-research", "intel-research", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2", "llama3",
    "llama3.1", "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by",
    "ofl-1.1", "openmdw-1.0", "openrail", "openrail++", "osl-3.0", "other", "pddl", "postgresql", "unknown",
    "unlicense", "wtfpl", "zlib",
))
# fmt: on


@dataclass(frozen=True)
class CardConfig:
    """What only the author can say; the card says plainly what is left open.

    Args:
        license: Of the finished model, as the Hub spells it, such as `apache-2.0`; null states none, which gives
            nobody the right to use a published model.
        data_license: Of the training images and captions, as a sentence or a name; null if it is not known. What
            comes with this project is known.
        data_description: What the training images show and where they come from, a sentence or two.
    """

    license: str | None = None
    data_license: str | None = None
    data_description: str | None = None

    def __post_init__(self) -> None:
        fits = self.license is None or self.license in HUB_LICENSES
        require(fits, "card.license", self.license, f"null, or one of {', '.join(sorted(HUB_LICENSES))}")
