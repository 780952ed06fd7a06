//! What a client may send and see.
