//! What must hold for any input. Each function is a fuzz target's body
//! (`fuzz_targets/`), and `cargo test` replays its corpus (`corpus/`).

use rrun::seccomp::interpreter::{Call, answer, verify};
use rrun::seccomp::{Arch, Support, compile, table};
use rrun::spec::Seccomp;

/// A profile either is refused with a text that names it, or becomes a
/// program that the kernel takes and that answers every syscall.
///
/// # Panics
/// If it doesn't.
pub fn seccomp(input: &[u8]) {
    let Ok(profile) = serde_json::from_slice::<Seccomp>(input) else {
        return;
    };
    for native in [Arch::X86_64, Arch::Aarch64] {
        let filter = match compile(&profile, native, &Support::default()) {
            Ok(filter) => filter,
            Err(error) => {
                assert!(
                    error.to_string().starts_with("config.json: linux.seccomp"),
                    "{error}"
                );
                continue;
            }
        };
        verify(&filter.program).unwrap_or_else(|refused| panic!("{refused}"));
        assert_eq!(filter.listener.is_some(), filter.notifies);
        let default = filter.summary.default.value();
        for arch in Arch::ALL {
            let call = |number, arg| Call {
                number,
                arch: arch.audit(),
                args: [arg; 6],
            };
            for name in ["read", "clone", "socketcall", "file_setattr"] {
                let Some(number) = table::number(arch, name) else {
                    continue;
                };
                for arg in [0, 1, u64::from(u32::MAX), u64::MAX] {
                    assert!(answer(&filter.program, &call(number, arg)).is_some());
                }
            }
            // No rule speaks of the number -1.
            let answer = answer(&filter.program, &call(u32::MAX, 0)).unwrap();
            assert!(answer == default || answer == 0, "{answer:#x}");
        }
    }
}

#[cfg(test)]
mod corpus {
    /// Every input of the corpus once; there is at least one.
    fn replay(target: &str, check: fn(&[u8])) {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(target);
        let mut inputs: Vec<_> = std::fs::read_dir(&corpus)
            .unwrap_or_else(|error| panic!("{}: {error}", corpus.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{} is empty", corpus.display());
        for input in inputs {
            println!("{}", input.display());
            check(&std::fs::read(&input).unwrap());
        }
    }

    #[test]
    fn seccomp() {
        replay("seccomp", super::seccomp);
    }
}
