"""Shoal: image inference on a cluster of your own machines. This is the client; servers are ``shoal up``."""

from shoal.answers import Answer, Outcome, Prediction
from shoal.blocking import Client
from shoal.client import AsyncClient
from shoal.errors import ShoalError

__all__ = ["Answer", "AsyncClient", "Client", "Outcome", "Prediction", "ShoalError"]
