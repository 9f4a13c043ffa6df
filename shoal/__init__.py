"""Shoal: image inference on a cluster of your own machines. This is the client; servers are ``shoal up``."""

from shoal.answers import Answer, Outcome, Prediction
from shoal.blocking import Client, Job
from shoal.client import AsyncClient
from shoal.errors import ShoalError
from shoal.jobs import AsyncJob

__all__ = ["Answer", "AsyncClient", "AsyncJob", "Client", "Job", "Outcome", "Prediction", "ShoalError"]
