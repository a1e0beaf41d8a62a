//! containerd-shim-rrun-v2: keeps the parent of containers alive, carries
//! their output, and reports to containerd.
//!
//! ```text
//! containerd --exec--> start --exec--> server (serve) <--ttrpc-- containerd
//!                        |               |  service -> pod -> container -> runtime
//!                        v               |                        |            `-> rrun
//!                  prints address        |                        `-> stdio, rootfs, stats, oom
//!                                        `-> events --ttrpc--> containerd
//! ```
//!
//! One thread does everything in the server; nothing in it waits but by `await`.

mod apart;
mod bootstrap;
mod cli;
mod container;
mod delete;
mod events;
mod exit_status;
mod info;
mod log;
mod oom;
mod options;
mod pod;
mod reaper;
mod rootfs;
mod runtime;
mod serve;
mod service;
mod stats;
mod stdio;

use std::process::ExitCode;

use rrun::error::Result;

use cli::{Action, Invocation};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if log::is_open() {
                log::error(&error);
            } else {
                eprintln!("containerd-shim-rrun-v2: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let invocation = Invocation::parse(std::env::args().skip(1))?;
    invocation.check()?;
    match invocation.action {
        Action::Start => bootstrap::start(&invocation),
        Action::Delete => delete::delete(&invocation),
        Action::Info => info::info(),
        Action::Version => info::version(),
        Action::Serve => serve::serve(&invocation),
    }
}
