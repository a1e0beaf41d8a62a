//! What must hold for any input. Each function is a fuzz target's body
//! (`fuzz_targets/`), and `cargo test` replays its corpus (`corpus/`).

// The parts of the shim that read foreign bytes; not all of each is used here.
#[path = "../../src/cli.rs"]
#[allow(dead_code)]
mod cli;
#[path = "../../src/options.rs"]
#[allow(dead_code)]
mod options;
#[path = "../../src/bootstrap/request.rs"]
#[allow(dead_code)]
mod request;

use cli::Invocation;
use options::{CheckpointOptions, Options};
use request::Request;

/// What containerd says is refused in one line, or has options that are found
/// again in the bundle and an answer in the form that this containerd reads.
///
/// # Panics
/// If it doesn't.
pub fn bootstrap(input: &[u8]) {
    let invocation = Invocation {
        id: "web".to_owned(),
        namespace: "ns".to_owned(),
        ..Invocation::default()
    };
    let refused = |error: &rrun::error::Error| {
        let text = error.to_string();
        assert!(!text.contains('\n') && !text.is_empty(), "{text:?}");
    };
    let request = match Request::parse(input, &invocation) {
        Ok(request) => request,
        Err(error) => return refused(&error),
    };
    let address = "unix:///run/s";
    for versioned in [false, true] {
        let answer = request.answer(address, versioned);
        let holds = |part: &[u8]| answer.windows(part.len()).any(|window| window == part);
        assert!(holds(address.as_bytes()), "{answer:?}");
        match (&request, versioned) {
            (Request::Bootstrap(..), _) => assert_eq!(answer[..2], [0x08, 3]),
            (Request::Legacy(_), true) => {
                let json: serde_json::Value = serde_json::from_slice(&answer).unwrap();
                assert_eq!(json["version"], 2);
            }
            (Request::Legacy(_), false) => assert_eq!(answer, address.as_bytes()),
        }
    }
    if let Err(error) = CheckpointOptions::parse(request.options()) {
        refused(&error);
    }
    match Options::parse(request.options(), &invocation.namespace) {
        Ok(options) => {
            let text = serde_json::to_string(&options).unwrap();
            assert_eq!(serde_json::from_str::<Options>(&text).unwrap(), options);
        }
        Err(error) => refused(&error),
    }
}

#[cfg(test)]
mod corpus {
    /// Every input of the corpus once, and every beginning of it; there is at
    /// least one.
    #[test]
    fn bootstrap() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/bootstrap");
        let mut inputs: Vec<_> = std::fs::read_dir(&corpus)
            .unwrap_or_else(|error| panic!("{}: {error}", corpus.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{} is empty", corpus.display());
        for input in inputs {
            println!("{}", input.display());
            let input = std::fs::read(&input).unwrap();
            for length in 0..=input.len() {
                super::bootstrap(&input[..length]);
            }
        }
    }
}
