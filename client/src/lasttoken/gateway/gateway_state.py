"""What the routes of one gateway share."""

from __future__ import annotations

from lasttoken.gateway.access import Access
from lasttoken.gateway.dialects import DIALECTS
from lasttoken.gateway.gateway_metrics import GatewayMetrics
from lasttoken.gateway.served_models import ModelDirectory
from lasttoken.gateway.settings import GatewaySettings
from lasttoken.gateway.tracing import Tracing


class Gateway:
    """Settings, keys, models and metrics of one gateway.

    Attributes:
        settings: What it was told.
        metrics: Its metrics.
        access: Its keys and their limits.
        directory: The models behind it.
        tracing: Makes its spans; None without a collector.
        in_flight: Requests for embeddings being worked on.
        draining: Whether it has been told to stop.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        """Make a gateway; nothing is asked of the server yet.

        Raises:
            InvalidInput: A setting or a key is not valid.
        """
        self.settings = settings
        self.metrics = GatewayMetrics(dialect.path for dialect in DIALECTS)
        self.access = Access(settings, self.metrics)
        self.directory = ModelDirectory(settings)
        self.tracing = Tracing(settings.otlp_endpoint) if settings.otlp_endpoint else None
        self.in_flight = 0
        self.draining = False
