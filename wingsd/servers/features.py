"""The lines of a console for which a Panel's page has a dialogue, as the egg names them (Pelican).

Source: Pelican's Wings, which compares each line and stops at the first text that is found.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from wingsd.panel.schemas import Configuration
from wingsd.servers.console import LONGEST_MATCHED_LINE, without_ansi

__all__ = ["TEXTS_MAX", "FeatureMatch", "FeatureMatcher"]

#: Texts that are looked for in every line. A console has 1 MiB a second at most, and the worst of
#: texts is compared with some 250 MiB a second.
TEXTS_MAX = 50


@attrs.frozen(repr=False)
class FeatureMatch:
    """What a `feature match` event has: the dialogue's key, the text found, and the line."""

    key: str
    pattern: str
    line: str


class FeatureMatcher:
    """Finds texts in lines by `features`, an egg's texts by the key of the dialogue.

    Case does not matter; with `strip_ansi` neither do colours. What is not in this form is
    ignored: it comes from an egg, and no server may fail for it. `ignored` is how many texts there
    are beyond `TEXTS_MAX`, which are not looked for.
    """

    def __init__(self, features: object = None, *, strip_ansi: bool = False) -> None:
        found = features.items() if isinstance(features, Mapping) else ()
        texts = [
            (str(key), text, text.lower())
            for key, texts in found
            for text in (texts if isinstance(texts, list) else ())
            if isinstance(text, str) and 0 < len(text) <= LONGEST_MATCHED_LINE
        ]
        self._texts = texts[:TEXTS_MAX]
        self._strip_ansi = strip_ansi
        self.ignored = len(texts) - len(self._texts)

    @classmethod
    def of(cls, configuration: Configuration) -> FeatureMatcher:
        """Return the matcher of a server's egg."""
        strip = configuration.process.startup.strip_ansi
        return cls(configuration.settings.egg.features, strip_ansi=strip)

    def match(self, line: str) -> FeatureMatch | None:
        """Return the first text of the egg that the line has."""
        if not self._texts:
            return None
        if self._strip_ansi:
            line = without_ansi(line)
        lower = line[:LONGEST_MATCHED_LINE].lower()
        for key, text, wanted in self._texts:
            if wanted in lower:
                return FeatureMatch(key, text, line)
        return None
