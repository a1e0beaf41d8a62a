//! The `rrun` command.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use rrun::cli::{self, Global, Parsed};
use rrun::error::Result;
use rrun::log::Log;
use rrun::{commands, seal, timing};

fn main() -> ExitCode {
    timing::mark("begin");
    // Whoever started us may ignore SIGCHLD (signal(7): that outlives execve),
    // and then no child of ours would leave a status.
    rrun::sys::signal::set_default(libc::SIGCHLD);
    // Before all else: what follows may read what a stranger wrote.
    if let Err(error) = seal::ensure() {
        Log::stderr().fail(&error);
        return ExitCode::FAILURE;
    }
    timing::mark("seal");
    let argv: Vec<OsString> = std::env::args_os().collect();
    let invocation = match cli::parse(&argv) {
        Ok(Parsed::Invocation(invocation)) => invocation,
        Ok(Parsed::Text(text)) => {
            // Whoever closed stdout has read enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(misread) => {
            let log = misread.global.and_then(|global| open(&global).ok());
            log.unwrap_or_else(Log::stderr).fail(&misread.error);
            return ExitCode::from(misread.code);
        }
    };
    let log = match open(&invocation.global) {
        Ok(log) => log,
        Err(error) => {
            Log::stderr().fail(&error);
            return ExitCode::FAILURE;
        }
    };
    log.catch_panics();
    timing::mark("command line");
    let done = commands::execute(&invocation, &log);
    timing::mark("end");
    if invocation.global.timing {
        // Whoever closed stderr doesn't want to know.
        let _ = std::io::stderr().write_all(timing::report().as_bytes());
    }
    match done {
        Ok(code) => {
            log.finish();
            ExitCode::from(code)
        }
        Err(error) => {
            log.fail(&error);
            ExitCode::from(invocation.command.failure_code())
        }
    }
}

/// The log that the options name.
fn open(global: &Global) -> Result<Log> {
    Log::open(global.log.as_deref(), global.log_format, global.log_level())
}
