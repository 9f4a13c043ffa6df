"""The paths that a gateway and a worker answer alike."""

from __future__ import annotations

import re

MODEL = "{model:[^/:]+}"
VERSION = "{version:[^/:]+}"
LABEL = "{label:[^/:]+}"

OPEN_INFERENCE = (f"/v2/models/{MODEL}/infer", f"/v2/models/{MODEL}/versions/{VERSION}/infer")

TENSORFLOW_SERVING = tuple(f"/v1/models/{MODEL}{which}" for which in ("", f"/versions/{VERSION}", f"/labels/{LABEL}"))
"""What TensorFlow Serving calls a model; a colon and a verb follow, or nothing."""

PREDICTIONS = ("/predict", "/", *OPEN_INFERENCE, *(f"{path}:predict" for path in TENSORFLOW_SERVING))
"""Where images are posted."""

JOB_ID = re.compile(r"(?P<incarnation>[A-Za-z0-9-]{1,64})\.(?P<name>[0-9a-f]{32})")
"""Of an asynchronous job: the worker that has it, and what nobody can guess."""

PLAIN_ERRORS = ("/v1/models", "/v2")
"""Those of other servers, whose errors are ``{"error": MESSAGE}``; the code is in the header ``Shoal-Code``."""
