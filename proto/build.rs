//! Compiles `proto/meshtastic/*.proto` with protox (no `protoc` needed) and generates Rust with
//! prost.
//!
//! Two descriptor sets leave here: the schema as written, for tools and tests, and the one that
//! prost sees, in which every `string` is `bytes` (the crate documentation says why).

use core::error::Error;
use std::env;
use std::fs;
use std::path::PathBuf;

use prost::Message;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};

/// The folder that holds the package, as the import path of the `.proto` files.
const ROOT: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let mut files = Vec::new();
    for entry in fs::read_dir(format!("{ROOT}/meshtastic"))? {
        files.push(entry?.path());
    }
    files.sort();

    let mut set = protox::compile(&files, [ROOT])?;

    let mut schema = set.clone();
    for file in &mut schema.file {
        file.source_code_info = None;
    }
    fs::write(out.join("meshtastic.binpb"), schema.encode_to_vec())?;

    strings_as_bytes(&mut set);
    prost_build::Config::new().out_dir(&out).compile_fds(set)?;
    Ok(())
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
