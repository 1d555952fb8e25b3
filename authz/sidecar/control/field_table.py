"""Protobuf messages by tables of their fields: of a large protocol only what is read or written of it.

They stand in a descriptor pool of their own. The default pool takes each name once, and belongs to the libraries that
bring the whole protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

#: message -> (field, number, what it is: a scalar or one of these messages; with [] where it repeats)
FieldTable = dict[str, tuple[tuple[str, int, str], ...]]

_SCALARS: Final = {
    "bool": Field.TYPE_BOOL,
    "bytes": Field.TYPE_BYTES,
    "double": Field.TYPE_DOUBLE,
    "fixed64": Field.TYPE_FIXED64,
    "int32": Field.TYPE_INT32,
    "int64": Field.TYPE_INT64,
    "sfixed64": Field.TYPE_SFIXED64,
    "string": Field.TYPE_STRING,
    "uint32": Field.TYPE_UINT32,
    "uint64": Field.TYPE_UINT64,
}


def message_classes(package: str, table: FieldTable, *, unions: Mapping[str, Collection[str]] | None = None) -> Any:
    """Give the classes of a table's messages by name; `unions` says which fields of a message are one of several.

    A field of a union is written also where it is 0 or empty.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package.replace('.', '/')}.proto", package=package, syntax="proto3"
    )
    for message, fields in table.items():
        described = file.message_type.add(name=message)
        union = (unions or {}).get(message, ())
        if union:
            described.oneof_decl.add(name="value")
        for name, number, kind in fields:
            label = Field.LABEL_REPEATED if kind.endswith("[]") else Field.LABEL_OPTIONAL
            field = described.field.add(name=name, number=number, label=label)
            plain = kind.removesuffix("[]")
            if plain in _SCALARS:
                field.type = _SCALARS[plain]
            else:
                field.type = Field.TYPE_MESSAGE
                field.type_name = f".{package}.{plain}"
            if name in union:
                field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in table}
