//! `rrun create`: a container whose process waits for `start`.

use super::launch::{Start, launch};
use crate::cli::{Create, Global};
use crate::error::Result;
use crate::log::Log;

/// Makes the container.
///
/// # Errors
/// Those of [`launch`].
pub fn execute(global: &Global, log: &Log, create: &Create) -> Result<()> {
    let bundle = create.new.bundle();
    let mut launched = launch(global, log, &create.new, &create.id, &bundle, Start::Later)?;
    // From here on the container waits at its gate, and nothing of it is ours.
    launched.created.init.go_on()
}
