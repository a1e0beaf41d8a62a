//! `rrun create`: a container whose process waits for `start`.

use super::delete::destroy_after;
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
    launched.created.init.note_steps();
    // From here on the container waits at its gate, and nothing of it is ours.
    match launched.created.init.go_on() {
        Ok(()) => Ok(()),
        Err(error) => Err(destroy_after(
            log,
            launched.container,
            &launched.record,
            error,
        )),
    }
}
