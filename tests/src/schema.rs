//! Writes `core/src/peek/schema.rs`, the table by which the core validates payloads, from the
//! schema in `proto`; the two crates do not know each other.

use core::fmt::Write as _;
use std::collections::BTreeMap;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// The messages whose payloads arrive in frames; everything reachable from them gets a row.
const ROOTS: [&str; 2] = [".meshtastic.FromRadio", ".meshtastic.ToRadio"];

/// The first code that names a message; the codes below are kinds of scalars.
const MESSAGE: usize = 16;

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
    let mut rows: Vec<String> = Vec::new();
    for root in ROOTS {
        visit(&messages, root, &mut rows, &mut Vec::new());
    }
    let row = |name: &str| rows.iter().position(|row| row == name).expect("visited");

    let last_variant =
        messages[ROOTS[0]].field.iter().map(FieldDescriptorProto::number).max().unwrap_or(0);
    let mut out = format!(
        "//! Generated from `proto/proto` by `cargo run -p meshbeat-tests --bin generate`; do not edit.\n\
         //!\n\
         //! A row per message, a byte per field number from 1 on: its kind, or `MESSAGE` plus the row\n\
         //! of the message it holds.\n\n\
         pub(super) const FROM_RADIO: u8 = {};\n\
         pub(super) const TO_RADIO: u8 = {};\n\
         /// The highest field number of a variant of `FromRadio`.\n\
         pub(super) const LAST_VARIANT: u32 = {last_variant};\n\n\
         /// What may stand in a field.\n\
         pub(super) mod kind {{\n\
         \x20   pub(in crate::peek) const UNKNOWN: u8 = 0;\n\
         \x20   pub(in crate::peek) const VARINT: u8 = 1;\n\
         \x20   pub(in crate::peek) const FIXED64: u8 = 2;\n\
         \x20   pub(in crate::peek) const BYTES: u8 = 3;\n\
         \x20   pub(in crate::peek) const FIXED32: u8 = 4;\n\
         \x20   /// Repeated: packed or one by one.\n\
         \x20   pub(in crate::peek) const VARINTS: u8 = 5;\n\
         \x20   /// Repeated: packed or one by one.\n\
         \x20   pub(in crate::peek) const FIXED32S: u8 = 6;\n\
         \x20   pub(in crate::peek) const MESSAGE: u8 = {MESSAGE};\n\
         }}\n\n\
         #[rustfmt::skip]\n\
         pub(super) static MESSAGES: [&[u8]; {}] = [\n",
        row(ROOTS[0]),
        row(ROOTS[1]),
        rows.len()
    );
    for name in &rows {
        let fields = &messages[name.as_str()].field;
        let width = fields.iter().map(FieldDescriptorProto::number).max().unwrap_or(0);
        assert!(width <= 127, "{name}: field number {width}");
        let codes: Vec<String> = (1..=width)
            .map(|number| match fields.iter().find(|field| field.number() == number) {
                None => "0".to_owned(),
                Some(field) => code(field, &row).to_string(),
            })
            .collect();
        writeln!(
            out,
            "    &[{}], // {}",
            codes.join(", "),
            name.trim_start_matches(".meshtastic.")
        )
        .expect("a String takes all");
    }
    out.push_str("];\n");
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

fn visit(
    messages: &BTreeMap<String, &DescriptorProto>,
    name: &str,
    rows: &mut Vec<String>,
    above: &mut Vec<String>,
) {
    assert!(!above.iter().any(|outer| outer == name), "{name} contains itself");
    if rows.iter().any(|row| row == name) {
        return;
    }
    rows.push(name.to_owned());
    above.push(name.to_owned());
    for field in &messages[name].field {
        if field.r#type() == Type::Message {
            visit(messages, field.type_name(), rows, above);
        }
    }
    above.pop();
}

fn code(field: &FieldDescriptorProto, row: &impl Fn(&str) -> usize) -> usize {
    let repeated = field.label() == Label::Repeated;
    match field.r#type() {
        Type::Message => MESSAGE + row(field.type_name()),
        Type::String | Type::Bytes => 3,
        Type::Fixed32 | Type::Sfixed32 | Type::Float => 4 + 2 * usize::from(repeated),
        Type::Fixed64 | Type::Sfixed64 | Type::Double => {
            assert!(!repeated, "{}: repeated 64-bit field", field.name());
            2
        }
        Type::Group => panic!("{}: a group", field.name()),
        _ => 1 + 4 * usize::from(repeated),
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
