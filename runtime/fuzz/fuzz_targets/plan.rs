//! Any JSON -> config.json -> plan.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| rrun_fuzz::plan(input));

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let changed = (seed % 4 != 0)
        .then(|| rrun_fuzz::mutate::document(&data[..size], seed))
        .flatten();
    match changed {
        Some(changed) if changed.len() <= max_size => {
            data[..changed.len()].copy_from_slice(&changed);
            changed.len()
        }
        _ => libfuzzer_sys::fuzzer_mutate(data, size, max_size),
    }
});

/// Without libFuzzer: the files that are named, once each.
#[cfg(not(fuzzing))]
fn main() {
    for input in std::env::args_os().skip(1) {
        rrun_fuzz::plan(&std::fs::read(input).expect("an input"));
    }
}
