from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Log(_message.Message):
    __slots__ = ("id", "dataType", "dataSource", "timestamp", "tenantId", "raw")
    ID_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    DATASOURCE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    TENANTID_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    id: str
    dataType: str
    dataSource: str
    timestamp: str
    tenantId: str
    raw: str
    def __init__(self, id: _Optional[str] = ..., dataType: _Optional[str] = ..., dataSource: _Optional[str] = ..., timestamp: _Optional[str] = ..., tenantId: _Optional[str] = ..., raw: _Optional[str] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("lastId",)
    LASTID_FIELD_NUMBER: _ClassVar[int]
    lastId: str
    def __init__(self, lastId: _Optional[str] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("id", "timestamp", "topic", "message")
    ID_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    id: str
    timestamp: str
    topic: str
    message: str
    def __init__(self, id: _Optional[str] = ..., timestamp: _Optional[str] = ..., topic: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
