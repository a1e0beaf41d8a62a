//! `-info` and `-v`: what containerd and people ask before there is a container.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::process::Command;

use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::well_known_types::any::Any;
use protobuf::{Message as _, MessageField};
use rrun::error::{Error, Kind, Result};

use crate::bootstrap::read_any;
use crate::options::Options;

/// The name under which containerd knows us.
const NAME: &str = "io.containerd.rrun.v2";
/// The type of the runtime's features, a JSON document.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
/// Which further kinds of mounts we make ourselves (containerd 2.1 and newer).
const MOUNTS: (&str, &str) = ("containerd.io/runtime-allow-mounts", "erofs");

/// Answers `-info`; standard input has the options of the runtime.
///
/// # Errors
/// Bad options, or no runtime.
pub(crate) fn info() -> Result<()> {
    let mut input = Vec::new();
    std::io::stdin()
        .read_to_end(&mut input)
        .map_err(|error| Error::new(Kind::System, format!("read standard input: {error}")))?;
    let given = read_any(&input)?;
    let options = Options::parse(given.as_ref(), "")?;
    let info = RuntimeInfo {
        name: NAME.to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..RuntimeVersion::default()
        }),
        options: MessageField::from_option(given),
        features: MessageField::from_option(features(&options)),
        annotations: HashMap::from([(MOUNTS.0.to_owned(), MOUNTS.1.to_owned())]),
        ..RuntimeInfo::default()
    };
    let written = info
        .write_to_bytes()
        .map_err(std::io::Error::other)
        .and_then(|bytes| std::io::stdout().write_all(&bytes));
    written.map_err(|error| Error::new(Kind::System, format!("write the answer: {error}")))
}

/// What the runtime can do. One that can't say it can still run containers, and
/// an error here would keep containerd from making any.
fn features(options: &Options) -> Option<Any> {
    let output = Command::new(&options.binary)
        .arg("features")
        .output()
        .ok()?;
    if !output.status.success() {
        return None;
    }
    Some(Any {
        type_url: FEATURES.to_owned(),
        value: output.stdout,
        ..Any::default()
    })
}

/// Prints the version as the Go shim does.
///
/// # Errors
/// Nobody reads it.
pub(crate) fn version() -> Result<()> {
    let text = format!(
        "containerd-shim-rrun-v2:\n  Version:  {}\n  Task API: 2, 3\n",
        env!("CARGO_PKG_VERSION")
    );
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Error::new(Kind::System, format!("write the version: {error}")))
}
