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
"""The same event type in a bucket's own notification to Pub/Sub."""
RESOURCE = "storage#object"
"""The `kind` of an object in such a notification (payload format JSON_API_V1)."""
MESSAGE_ID = "x-goog-pubsub-message-id"


def object_of(request: Request, fields: Mapping[str, Any], kind: str) -> str | None:
    """The name of the finalized object; None for an event of another type.

    Raises BadRequestError for a storage event without an object's name.
    """
    structured = request.mimetype == STRUCTURED
    data = data_of(fields) if structured else fields
    if kind == PUBLISHED:
        inner, data = unwrapped(data)
        if inner is None:
            return None
    elif kind != FINALIZED:
        return None
    name = data.get("name") if isinstance(data, dict) else None
    if not isinstance(name, str):
        raise BadRequestError(("/data/name" if structured else "/name", "the storage event has no object name"))
    return name


def event_type(request: Request, fields: Mapping[str, Any]) -> str | None:
    """The CloudEvent's type, in binary or structured mode; None if the request is not an event.

    A Pub/Sub subscription pushes the event without CloudEvent headers. With payload unwrapping it pushes only the
    content of the message: for a bucket's notification the object itself, with the attributes as headers or without.
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
        notified = request.headers.get("eventType", NOTIFIED)
        return FINALIZED if notified == NOTIFIED else notified
    # An error would make Pub/Sub push the unrelated message again and again.
    return "another message" if fields and MESSAGE_ID in request.headers else None


def data_of(event: Mapping[str, Any]) -> object:
    """The data of a CloudEvent in structured mode, where it may be in base64; BadRequestError if it is not JSON."""
    if "data_base64" not in event:
        return event.get("data")
    try:
        return json.loads(b64decode(event["data_base64"], validate=True))
    except (ValueError, TypeError, RecursionError):
        raise BadRequestError(("/data_base64", "the event's data is not JSON in base64")) from None


def unwrapped(data: object) -> tuple[str | None, dict[str, Any]]:
    """The type and data of the storage event in a Pub/Sub message; the type is None for any other message."""
    message = data.get("message") if isinstance(data, dict) else None
    attributes = message.get("attributes") if isinstance(message, dict) else None
    if not isinstance(attributes, dict) or attributes.get("eventType") != NOTIFIED:
        return None, {}
    return FINALIZED, {"name": attributes.get("objectId")}
