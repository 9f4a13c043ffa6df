"""The paths that a gateway and a worker answer alike."""

from __future__ import annotations

MODEL = "{model:[^/:]+}"
VERSION = "{version:[^/:]+}"
LABEL = "{label:[^/:]+}"

PREDICTIONS = ("/predict", "/")
"""Where images are posted."""

PLAIN_ERRORS = ("/v1/models", "/v2")
"""Those of other servers, whose errors are ``{"error": MESSAGE}``; the code is in the header ``Shoal-Code``."""
