"""A parsed message: a tree of fields with their places in the text.

Values are plain Python: int, float, bool, str (also for the name of an enum value), bytes, or
another `Message`. Floats keep the digits that were written; `to_proto` rounds them to 32 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message as ProtoMessage

from graphc.frontends.caffe import schema
from graphc.source import Span

Scalar = bool | int | float | str | bytes


@dataclass(frozen=True)
class Field:
    """One value given to a field: where the field's name stands, and where the value does."""

    name: str
    value: Any
    name_span: Span
    span: Span


@dataclass(repr=False)
class Message:
    """The fields of one message in the order of the text.

    `span` is the opening word (`layer` of `layer {`), or the whole text for the outermost message.
    `refused` are names of fields that were given, but with values that cannot be read.
    """

    descriptor: Descriptor
    span: Span
    fields: list[Field] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)

    @classmethod
    def empty(cls, name: str, span: Span) -> Message:
        """A message of type `name` without fields; errors about it point to `span`."""
        return cls(schema.descriptor(name), span)

    @property
    def type_name(self) -> str:
        """The message's type, such as `ConvolutionParameter`."""
        return str(self.descriptor.name)

    def __repr__(self) -> str:
        return f"<{self.type_name} at {self.span} with {len(self.fields)} fields>"

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def has(self, name: str) -> bool:
        """Whether the text gives the field (at least once)."""
        self._field(name)
        return any(given.name == name for given in self.fields)

    def get(self, name: str) -> Any:
        """The value of a singular field: the given one, else Caffe's default.

        An absent message reads as one without fields, so `layer.get("lrn_param").get("beta")` is
        0.75 either way. A repeated field gives the list of its values.
        """
        description = self._field(name)
        if schema.is_repeated(description):
            return self.all(name)
        for given in self.fields:
            if given.name == name:
                return given.value
        if description.message_type is not None:
            return Message(description.message_type, self.span)
        return schema.default_value(description)

    def all(self, name: str) -> list[Any]:
        """Every value given to the field, in order."""
        self._field(name)
        return [given.value for given in self.fields if given.name == name]

    def span_of(self, name: str, index: int = 0) -> Span:
        """Where value `index` of the field stands; the message's own place if there is none."""
        self._field(name)
        spans = [given.span for given in self.fields if given.name == name]
        return spans[index] if -len(spans) <= index < len(spans) else self.span

    def name_span_of(self, name: str, index: int = 0) -> Span:
        """Where the field's name stands before value `index`, or the message's own place."""
        self._field(name)
        spans = [given.name_span for given in self.fields if given.name == name]
        return spans[index] if -len(spans) <= index < len(spans) else self.span

    def add(self, name: str, value: Any, span: Span | None = None) -> None:
        """Append a value of a field, as if it stood at `span`."""
        self._field(name)
        place = span or self.span
        self.fields.append(Field(name, value, place, place))

    def put(self, name: str, value: Any, span: Span | None = None) -> None:
        """Set a singular field, in place of the value it may have."""
        self.fields = [given for given in self.fields if given.name != name]
        self.add(name, value, span)

    def child(self, name: str, span: Span | None = None) -> Message:
        """The message in singular field `name`, added without fields if there is none yet."""
        for given in self.fields:
            if given.name == name:
                found: Message = given.value
                return found
        created = Message(schema.inner(self._field(name)), span or self.span)
        self.add(name, created, span)
        return created

    def to_proto(self) -> ProtoMessage:
        """The same as a protobuf message, for writing it in binary."""
        proto = schema.message_class(self.type_name)()
        self._fill(proto)
        return proto

    def _fill(self, proto: ProtoMessage) -> None:
        proto.SetInParent()
        for given in self.fields:
            description = self._field(given.name)
            if description.message_type is not None:
                target = getattr(proto, given.name)
                given.value._fill(target.add() if schema.is_repeated(description) else target)
            elif schema.is_repeated(description):
                getattr(proto, given.name).append(_proto_value(description, given.value))
            else:
                setattr(proto, given.name, _proto_value(description, given.value))

    def _field(self, name: str) -> FieldDescriptor:
        """The field's description; a KeyError here is a mistake in the calling code."""
        found: FieldDescriptor = self.descriptor.fields_by_name[name]
        return found


def _proto_value(description: FieldDescriptor, value: Scalar) -> Scalar:
    if description.enum_type is not None:
        return int(description.enum_type.values_by_name[str(value)].number)
    return value
