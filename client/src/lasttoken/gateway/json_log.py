"""Logs as JSON lines on stderr: who, what, how many, how long; never a text and never a key."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from typing import Any

import orjson

from lasttoken.gateway.exchange import Exchange

_LOGGER = logging.getLogger("lasttoken.gateway")


class JsonLines(logging.Formatter):
    """One JSON object a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record; the fields of an event stand beside its name."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.name != _LOGGER.name:
            line["logger"] = record.name
        if record.exc_info and record.exc_info[0] is not None:
            # The places and the kind, but not the message: it may quote a caller's text.
            line["exception"] = record.exc_info[0].__name__
            line["traceback"] = traceback.format_tb(record.exc_info[2])
        return orjson.dumps(line, default=str).decode()


def log_event(event: str, *, level: str = "info", exc_info: bool = False, **fields: Any) -> None:
    """Log an event with its fields."""
    number = logging.getLevelName(level.upper())
    _LOGGER.log(number, event, extra={"fields": fields}, exc_info=exc_info)


def log_exchange(exchange: Exchange, *, method: str, status: int, seconds: float) -> None:
    """Log one answered request."""
    if not _LOGGER.isEnabledFor(logging.INFO):
        return
    fields: dict[str, Any] = {
        "request_id": exchange.request_id,
        "method": method,
        "route": exchange.route,
        "status": status,
        "seconds": round(seconds, 6),
    }
    for name in ("key", "model", "texts", "tokens", "upstream_s", "error", "cause"):
        value = getattr(exchange, name)
        if value is not None:
            fields[name] = round(value, 6) if isinstance(value, float) else value
    _LOGGER.info("request", extra={"fields": fields})


def set_up_logging(level: str) -> None:
    """Send the gateway's and the server's records to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in (_LOGGER.name, "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False
