//! Writes man pages and shell completions from the definitions of the command
//! line: `docs DIRECTORY`. Run by `hack/docs`; no part of the program.

use std::path::Path;
use std::{env, fs, io};

use clap_complete::Shell;
use clap_mangen::Man;

fn main() -> io::Result<()> {
    let directory = env::args_os()
        .nth(1)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "usage: docs DIRECTORY"))?;
    let directory = Path::new(&directory);
    pages(&directory.join("man"))?;
    completions(&directory.join("completions"))
}

/// rrun(8), and rrun-COMMAND(8) for each command.
fn pages(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut program = rrun::cli::definition();
    program.build();
    let commands = program.get_subcommands().filter(|one| !one.is_hide_set());
    for command in commands.chain([&program]) {
        let name = command.get_display_name().unwrap_or(command.get_name());
        let file = directory.join(format!("{name}.8"));
        Man::new(command.clone())
            .section("8")
            .manual("System Manager's Manual")
            .source(concat!("rrun ", env!("CARGO_PKG_VERSION")))
            // A build must not depend on the day.
            .date("")
            .render(&mut fs::File::create(file)?)?;
    }
    Ok(())
}

/// A file for each shell, with the name under which the shell looks for it.
fn completions(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for (shell, file) in [
        (Shell::Bash, "rrun"),
        (Shell::Zsh, "_rrun"),
        (Shell::Fish, "rrun.fish"),
    ] {
        let mut program = rrun::cli::definition();
        let mut file = fs::File::create(directory.join(file))?;
        clap_complete::generate(shell, &mut program, "rrun", &mut file);
    }
    Ok(())
}
