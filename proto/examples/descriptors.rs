//! Writes the compiled schema, a `google.protobuf.FileDescriptorSet`, to standard output.

use std::io::{self, Write};

fn main() -> io::Result<()> {
    io::stdout().write_all(meshbeat_proto::DESCRIPTORS)
}
