//! Writes `core/src/peek/schema.rs`, the table by which the core validates payloads, from the
//! schema in `proto`; the two crates do not know each other.

use core::fmt::Write as _;
use std::collections::BTreeMap;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// The messages of which the core reads values, first of all those whose payloads arrive in frames;
/// they get the first rows, and everything that they hold gets one behind them.
const READ: [(&str, &str); 6] = [
    ("FROM_RADIO", ".meshtastic.FromRadio"),
    ("TO_RADIO", ".meshtastic.ToRadio"),
    ("MESH_PACKET", ".meshtastic.MeshPacket"),
    ("DATA", ".meshtastic.Data"),
    ("MY_NODE_INFO", ".meshtastic.MyNodeInfo"),
    ("QUEUE_STATUS", ".meshtastic.QueueStatus"),
];

/// The codes of fields that always have the same wire type, which they are.
const VARINT: usize = 0;
const FIXED64: usize = 1;
const BYTES: usize = 2;
const FIXED32: usize = 5;

/// Those of other fields and of what is not known: no wire type has their low three bits.
const UNKNOWN: usize = 7;
const FIXED32S: usize = 14;
const VARINTS: usize = 15;

/// The first code that names a message; the codes below are kinds of scalars.
const MESSAGE: usize = 16;

const HEAD: &str = "\
//! Generated from `proto/proto` by `cargo run -p meshbeat-tests --bin generate`; do not edit.
//!
//! A row per message, a byte per field number from 1 on: its kind, or `MESSAGE` plus the row
//! of the message it holds. One list for all rows, which takes less room than a slice each.

";

/// Where the table lies, from the top folder.
pub const TABLE: &str = "core/src/peek/schema.rs";

/// The text of the table.
///
/// # Panics
/// If the schema has what the table cannot say: a cycle, a group, a field number over 127.
pub fn generate(descriptors: &[u8]) -> String {
    let set = FileDescriptorSet::decode(descriptors).expect("our own descriptors");
    let mut messages = BTreeMap::new();
    for file in &set.file {
        for message in &file.message_type {
            collect(&mut messages, ".meshtastic", message);
        }
    }
    let mut rows: Vec<String> = READ.map(|(_, name)| name.to_owned()).into();
    let depth = READ.map(|(_, name)| visit(&messages, name, &mut rows, 0)).into_iter().max();
    let row = |name: &str| rows.iter().position(|row| row == name).expect("visited");

    let variants = &messages[READ[0].1].field;
    let last_variant = variants.iter().map(FieldDescriptorProto::number).max().unwrap_or(0);
    let mut out = String::from(HEAD);
    for (index, (name, _)) in READ.iter().enumerate() {
        out += &format!("pub(super) const {name}: u8 = {index};\n");
    }
    out += &format!(
        "/// The last row of which values are read.\n\
         pub(super) const LAST_READ: u8 = {};\n\
         /// The highest field number of a variant of `FromRadio`.\n\
         pub(super) const LAST_VARIANT: u32 = {last_variant};\n\
         /// How deep messages lie in each other.\n\
         pub(super) const DEPTH: usize = {};\n\n\
         /// What may stand in a field; a kind that is not here is the wire type that it has to have.\n\
         pub(super) mod kind {{\n\
         \x20   pub(in crate::peek) const UNKNOWN: u8 = {UNKNOWN};\n\
         \x20   /// Repeated: packed or one by one.\n\
         \x20   pub(in crate::peek) const FIXED32S: u8 = {FIXED32S};\n\
         \x20   /// Repeated: packed or one by one.\n\
         \x20   pub(in crate::peek) const VARINTS: u8 = {VARINTS};\n\
         \x20   pub(in crate::peek) const MESSAGE: u8 = {MESSAGE};\n\
         }}\n\n\
         #[rustfmt::skip]\n\
         pub(super) static KINDS: &[u8] = &[\n",
        READ.len() - 1,
        depth.unwrap_or(0),
    );
    let mut starts = vec![0];
    for name in &rows {
        let fields = &messages[name.as_str()].field;
        let width = fields.iter().map(FieldDescriptorProto::number).max().unwrap_or(0);
        assert!(width <= 127, "{name}: field number {width}");
        let codes: Vec<String> = (1..=width)
            .map(|number| match fields.iter().find(|field| field.number() == number) {
                None => UNKNOWN.to_string(),
                Some(field) => code(field, &row).to_string(),
            })
            .collect();
        starts.push(starts[starts.len() - 1] + codes.len());
        let codes: String = codes.iter().map(|code| format!("{code}, ")).collect();
        let name = name.trim_start_matches(".meshtastic.");
        writeln!(out, "    {codes}// {name}").expect("a String takes all");
    }
    let starts: Vec<String> = starts.iter().map(usize::to_string).collect();
    out += &format!(
        "];\n\n\
         /// Where each row begins in `KINDS`, and where the last one ends.\n\
         #[rustfmt::skip]\n\
         pub(super) static ROWS: [u16; {}] = [\n    {},\n];\n",
        starts.len(),
        starts.join(", ")
    );
    out
}

fn collect<'a>(
    messages: &mut BTreeMap<String, &'a DescriptorProto>,
    path: &str,
    message: &'a DescriptorProto,
) {
    let name = format!("{path}.{}", message.name());
    for nested in &message.nested_type {
        collect(messages, &name, nested);
    }
    messages.insert(name, message);
}

/// Gives `name` and all that it holds a row; returns how deep messages lie in it.
fn visit(
    messages: &BTreeMap<String, &DescriptorProto>,
    name: &str,
    rows: &mut Vec<String>,
    above: usize,
) -> usize {
    assert!(above < 16, "{name} contains itself");
    if !rows.iter().any(|row| row == name) {
        rows.push(name.to_owned());
    }
    let inner = messages[name].field.iter().filter(|field| field.r#type() == Type::Message);
    inner.map(|field| 1 + visit(messages, field.type_name(), rows, above + 1)).max().unwrap_or(0)
}

fn code(field: &FieldDescriptorProto, row: &impl Fn(&str) -> usize) -> usize {
    let repeated = field.label() == Label::Repeated;
    match field.r#type() {
        Type::Message => MESSAGE + row(field.type_name()),
        Type::String | Type::Bytes => BYTES,
        Type::Fixed32 | Type::Sfixed32 | Type::Float if repeated => FIXED32S,
        Type::Fixed32 | Type::Sfixed32 | Type::Float => FIXED32,
        Type::Fixed64 | Type::Sfixed64 | Type::Double => {
            assert!(!repeated, "{}: repeated 64-bit field", field.name());
            FIXED64
        }
        Type::Group => panic!("{}: a group", field.name()),
        _ if repeated => VARINTS,
        _ => VARINT,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_core_validates_by_the_schema_of_proto() {
        let committed = include_str!("../../core/src/peek/schema.rs");
        assert_eq!(
            committed,
            super::generate(meshbeat_proto::DESCRIPTORS),
            "stale: cargo run -p meshbeat-tests --bin generate"
        );
    }
}
