from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PluginType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNKNOWN: _ClassVar[PluginType]
    SOPHOS: _ClassVar[PluginType]
UNKNOWN: PluginType
SOPHOS: PluginType

class BiDirectionalMessage(_message.Message):
    __slots__ = ("plugin_init", "config")
    PLUGIN_INIT_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    plugin_init: PluginInit
    config: ConfigurationSection
    def __init__(self, plugin_init: _Optional[_Union[PluginInit, _Mapping]] = ..., config: _Optional[_Union[ConfigurationSection, _Mapping]] = ...) -> None: ...

class PluginInit(_message.Message):
    __slots__ = ("type",)
    TYPE_FIELD_NUMBER: _ClassVar[int]
    type: PluginType
    def __init__(self, type: _Optional[_Union[PluginType, str]] = ...) -> None: ...

class ConfigurationSection(_message.Message):
    __slots__ = ("moduleName", "moduleActive", "moduleGroups")
    MODULENAME_FIELD_NUMBER: _ClassVar[int]
    MODULEACTIVE_FIELD_NUMBER: _ClassVar[int]
    MODULEGROUPS_FIELD_NUMBER: _ClassVar[int]
    moduleName: str
    moduleActive: bool
    moduleGroups: _containers.RepeatedCompositeFieldContainer[ModuleGroup]
    def __init__(self, moduleName: _Optional[str] = ..., moduleActive: _Optional[bool] = ..., moduleGroups: _Optional[_Iterable[_Union[ModuleGroup, _Mapping]]] = ...) -> None: ...

class ModuleGroup(_message.Message):
    __slots__ = ("groupName", "moduleGroupConfigurations")
    GROUPNAME_FIELD_NUMBER: _ClassVar[int]
    MODULEGROUPCONFIGURATIONS_FIELD_NUMBER: _ClassVar[int]
    groupName: str
    moduleGroupConfigurations: _containers.RepeatedCompositeFieldContainer[Configuration]
    def __init__(self, groupName: _Optional[str] = ..., moduleGroupConfigurations: _Optional[_Iterable[_Union[Configuration, _Mapping]]] = ...) -> None: ...

class Configuration(_message.Message):
    __slots__ = ("confKey", "confValue", "confName")
    CONFKEY_FIELD_NUMBER: _ClassVar[int]
    CONFVALUE_FIELD_NUMBER: _ClassVar[int]
    CONFNAME_FIELD_NUMBER: _ClassVar[int]
    confKey: str
    confValue: str
    confName: str
    def __init__(self, confKey: _Optional[str] = ..., confValue: _Optional[str] = ..., confName: _Optional[str] = ...) -> None: ...
