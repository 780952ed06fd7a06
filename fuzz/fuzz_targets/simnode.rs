//! `meshbeat_fuzz::simnode::run` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| meshbeat_fuzz::simnode::run(data));
