//! The node's configuration, byte for byte.
