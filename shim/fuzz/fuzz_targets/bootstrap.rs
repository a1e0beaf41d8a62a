//! Any bytes -> what containerd says at `start` -> options and answer.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| containerd_shim_rrun_v2_fuzz::bootstrap(input));

/// Without libFuzzer: the files that are named, once each.
#[cfg(not(fuzzing))]
fn main() {
    for input in std::env::args_os().skip(1) {
        containerd_shim_rrun_v2_fuzz::bootstrap(&std::fs::read(input).expect("an input"));
    }
}
