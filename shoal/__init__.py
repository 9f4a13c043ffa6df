"""Shoal: image inference on a cluster of your own machines. This is the client; servers are ``shoal up``."""

from shoal.answers import Answer, Outcome, Prediction
from shoal.client import AsyncClient, Client
from shoal.errors import ShoalError

__all__ = ["Answer", "AsyncClient", "Client", "Outcome", "Prediction", "ShoalError"]
