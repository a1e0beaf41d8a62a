//! Any JSON -> config.json -> plan.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| rrun_fuzz::plan(input));

/// Without libFuzzer: the files that are named, once each.
#[cfg(not(fuzzing))]
fn main() {
    for input in std::env::args_os().skip(1) {
        rrun_fuzz::plan(&std::fs::read(input).expect("an input"));
    }
}
