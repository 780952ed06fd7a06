//! Compiles `proto/proto` with protox (no `protoc` needed) and generates the Rust of
//! `meshbeat-proto` with prost.
//!
//! It is generated here and not by a build script, so that whoever builds a firmware or the program
//! builds no protobuf compiler first. Two descriptor sets leave here: the schema as written, for
//! tools and tests, and the one that prost sees, in which every `string` is `bytes` (the
//! documentation of `meshbeat-proto` says why).

use core::error::Error;
use std::fs;
use std::path::Path;

use prost::Message as _;
use prost_build::Module;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};

/// Where the generated Rust lies, from the top folder.
pub const RUST: &str = "proto/src/generated/meshtastic.rs";
/// Where the compiled schema lies.
pub const DESCRIPTORS: &str = "proto/src/generated/meshtastic.binpb";

/// What is generated.
#[derive(Debug)]
pub struct Generated {
    /// The messages for prost.
    pub rust: String,
    /// The schema as a serialised `FileDescriptorSet`.
    pub descriptors: Vec<u8>,
}

/// Generates both from the `.proto` files as they are now.
///
/// # Errors
/// A file that cannot be read or is no schema.
pub fn generate() -> Result<Generated, Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/proto");
    let mut files = Vec::new();
    for entry in fs::read_dir(root.join("meshtastic"))? {
        files.push(entry?.path());
    }
    files.sort();
    let mut set = protox::compile(&files, [root])?;

    let mut schema = set.clone();
    for file in &mut schema.file {
        file.source_code_info = None;
    }
    strings_as_bytes(&mut set);
    let module = |package: &str| Module::from_protobuf_package_name(package);
    let requests = set.file.into_iter().map(|file| (module(file.package()), file)).collect();
    let mut modules = prost_build::Config::new().generate(requests)?;
    let code = modules.remove(&module("meshtastic")).ok_or("no package meshtastic")?;
    let rust = format!(
        "// Generated from `proto/proto` by `cargo run -p meshbeat-tests --bin generate`; do not \
         edit.\n\n{code}"
    );
    Ok(Generated { rust, descriptors: schema.encode_to_vec() })
}

fn strings_as_bytes(set: &mut FileDescriptorSet) {
    for message in set.file.iter_mut().flat_map(|file| &mut file.message_type) {
        strings_of_message_as_bytes(message);
    }
}

fn strings_of_message_as_bytes(message: &mut DescriptorProto) {
    for field in &mut message.field {
        if field.r#type() == Type::String {
            field.set_type(Type::Bytes);
        }
    }
    message.nested_type.iter_mut().for_each(strings_of_message_as_bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_what_the_schema_generates() {
        let generated = generate().expect("our own schema");
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let how = "stale: cargo run -p meshbeat-tests --bin generate";
        assert!(fs::read(top.join(RUST)).ok() == Some(generated.rust.into_bytes()), "{how}");
        assert!(fs::read(top.join(DESCRIPTORS)).ok() == Some(generated.descriptors), "{how}");
    }
}
