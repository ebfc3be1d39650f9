"""CloudEvents of a storage bucket: in binary or structured mode, or pushed by Pub/Sub."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from flask import Request

from lib.http.problems import BadRequestError

STRUCTURED = "application/cloudevents+json"
FINALIZED = "google.cloud.storage.object.v1.finalized"
PUBLISHED = "google.cloud.pubsub.topic.v1.messagePublished"
NOTIFIED = "OBJECT_FINALIZE"
"""The same, as a bucket's own notification to Pub/Sub says it."""
RESOURCE = "storage#object"
"""The kind of what such a notification holds (payload format JSON_API_V1)."""
MESSAGE_ID = "x-goog-pubsub-message-id"


def object_of(request: Request, fields: Mapping[str, Any], kind: str) -> str | None:
    """The name of the finalized object; None for an event of another type than that, which is somebody else's."""
    structured = request.mimetype == STRUCTURED
    data = data_of(fields) if structured else fields
    if kind == PUBLISHED:
        found, data = unwrapped(data)
        if found is None:
            return None
    elif kind != FINALIZED:
        return None
    name = data.get("name") if isinstance(data, dict) else None
    if not isinstance(name, str):
        raise BadRequestError(("/data/name" if structured else "/name", "the storage event names no object"))
    return name


def event_type(request: Request, fields: Mapping[str, Any]) -> str | None:
    """The CloudEvent's type, in binary or structured mode; None where the request is none.

    What a Pub/Sub subscription pushes is one of its events, without the envelope. With payload unwrapping it pushes
    what the message holds: of a bucket's notification the object itself, and the rest as headers, or not at all.
    """
    if request.mimetype == STRUCTURED:
        kind = fields.get("type")
        if not isinstance(kind, str):
            raise BadRequestError(("/type", "a CloudEvent has a type"))
        return kind
    if "ce-type" in request.headers:
        return request.headers["ce-type"]
    if isinstance(fields.get("message"), dict) and "subscription" in fields:
        return PUBLISHED
    if fields.get("kind") == RESOURCE:
        told = request.headers.get("eventType", NOTIFIED)
        return FINALIZED if told == NOTIFIED else told
    # An error would only make Pub/Sub push somebody else's message again and again.
    return "another message" if fields and MESSAGE_ID in request.headers else None


def data_of(event: Mapping[str, Any]) -> object:
    """The data of a CloudEvent in structured mode, which may carry it in base64."""
    if "data_base64" not in event:
        return event.get("data")
    try:
        return json.loads(b64decode(event["data_base64"], validate=True))
    except (ValueError, TypeError, RecursionError):
        raise BadRequestError(("/data_base64", "the event's data is not JSON in base64")) from None


def unwrapped(data: object) -> tuple[str | None, dict[str, Any]]:
    """The type and the data of the storage event that a Pub/Sub message carries; other messages have no type here."""
    message = data.get("message") if isinstance(data, dict) else None
    attributes = message.get("attributes") if isinstance(message, dict) else None
    if not isinstance(attributes, dict) or attributes.get("eventType") != NOTIFIED:
        return None, {}
    return FINALIZED, {"name": attributes.get("objectId")}
