//! `meshbeat_fuzz::relay::run` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| meshbeat_fuzz::relay::run(data));
