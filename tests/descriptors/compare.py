#!/usr/bin/env python3
"""Compares our schema with the descriptors of the official Python package.

    compare.py OURS.binpb

OURS.binpb is a FileDescriptorSet (`cargo run -p meshbeat-proto --example descriptors`). What both
have must agree: number, type, label and oneof of every field, and every value of an enumeration.
What only they have must be exactly what left_out.txt lists, what only we have exactly what
beyond.txt lists. Exit code 0: so it is; 1: one line on standard error for each difference;
2: wrong usage or another version of the package.

The lists name a message or enumeration (its content goes with it), a field or a value, with its
full path and one name a line; the comment above a group of names is its reason.
"""

import importlib
import importlib.metadata
import pathlib
import pkgutil
import sys

VERSION = "2.7.11"
HERE = pathlib.Path(__file__).resolve().parent
# Options of the firmware's code generator, no part of the protocol.
NOT_PROTOCOL = {"nanopb_pb2"}


def facts(files, package):
    """Everything in the files of a package: full path -> what is true of it, as a tuple."""
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

    found = {}

    def add(path, *fact):
        if path in found:
            raise SystemExit(f"{path} is defined twice")
        found[path] = fact

    def enumeration(node, path):
        add(path, "enum")
        for value in node.value:
            add(f"{path}.{value.name}", "value", value.number)

    def field(node, message, path):
        kind = Field.Type.Name(node.type).removeprefix("TYPE_").lower()
        if node.type_name:
            kind += " " + node.type_name.removeprefix(f".{package}.")
        label = Field.Label.Name(node.label).removeprefix("LABEL_").lower()
        if label == "optional" and not node.proto3_optional:
            label = "singular"
        oneof = ""
        if node.HasField("oneof_index") and not node.proto3_optional:
            oneof = message.oneof_decl[node.oneof_index].name
        add(f"{path}.{node.name}", "field", node.number, kind, label, oneof)

    def message(node, path):
        add(path, "message")
        for child in node.field:
            field(child, node, path)
        for child in node.nested_type:
            message(child, f"{path}.{child.name}")
        for child in node.enum_type:
            enumeration(child, f"{path}.{child.name}")

    for file in files:
        if file.package != package:
            raise SystemExit(f"{file.name}: package {file.package}, not {package}")
        if file.syntax != "proto3":
            raise SystemExit(f"{file.name}: not proto3")
        for child in file.message_type:
            message(child, child.name)
        for child in file.enum_type:
            enumeration(child, child.name)
    return found


def ours(path):
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    return facts(FileDescriptorSet.FromString(path.read_bytes()).file, "meshtastic")


def official():
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    import meshtastic.protobuf as package

    files = []
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.endswith("_pb2") and module.name not in NOT_PROTOCOL:
            descriptor = importlib.import_module(f"{package.__name__}.{module.name}").DESCRIPTOR
            files.append(FileDescriptorProto.FromString(descriptor.serialized_pb))
    return facts(files, "meshtastic.protobuf")


def listed(text, name):
    """The names of a list -> the reason above their group."""
    entries = {}
    reason = []
    names_since = True
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("#"):
            if names_since:
                reason = []
            names_since = False
            reason.append(line.lstrip("# "))
        elif line:
            names_since = True
            if not " ".join(reason).strip():
                raise SystemExit(f"{name}:{number}: {line} has no reason above it")
            if line in entries:
                raise SystemExit(f"{name}:{number}: {line} is listed twice")
            entries[line] = " ".join(reason)
        else:
            reason = []
    return entries


def only_in(these, those):
    """Paths that only these have, without those whose parent is such a path already."""
    missing = {path for path in these if path not in those}
    return {path for path in missing if path.rpartition(".")[0] not in missing}


def differences(mine, theirs, left_out, beyond):
    """One line for each difference that no list explains."""
    lines = []
    for path in sorted(mine.keys() & theirs.keys()):
        if mine[path] != theirs[path]:
            lines.append(f"{path}: ours {mine[path]}, official {theirs[path]}")
    for have, lack, entries, words in (
        (theirs, mine, left_out, ("is official, not ours", "left_out.txt")),
        (mine, theirs, beyond, ("is ours, not official", "beyond.txt")),
    ):
        found = only_in(have, lack)
        for path in sorted(found - entries.keys()):
            lines.append(f"{path}: {have[path]} {words[0]} and not in {words[1]}")
        for path in sorted(entries.keys() - found):
            lines.append(f"{path}: in {words[1]} for nothing")
    return lines


def main(arguments):
    if len(arguments) != 1:
        print("usage: compare.py OURS.binpb", file=sys.stderr)
        return 2
    try:
        version = importlib.metadata.version("meshtastic")
    except importlib.metadata.PackageNotFoundError:
        version = "(none)"
    if version != VERSION:
        print(f"compare.py: needs meshtastic {VERSION}, found {version}", file=sys.stderr)
        return 2
    names = ("left_out.txt", "beyond.txt")
    lists = {name: listed((HERE / name).read_text(), name) for name in names}
    mine, theirs = ours(pathlib.Path(arguments[0])), official()
    lines = differences(mine, theirs, lists["left_out.txt"], lists["beyond.txt"])
    for line in lines:
        print(line, file=sys.stderr)
    both = len(mine.keys() & theirs.keys())
    print(f"{both} names compared with meshtastic {VERSION}, {len(lines)} differences")
    for name, title in (("left_out.txt", "left out"), ("beyond.txt", "beyond it")):
        print(f"{title}:")
        for path, reason in lists[name].items():
            print(f"  {path} ({reason})")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
