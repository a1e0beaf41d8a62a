//! `rrun ps`: the processes of a container, as the host sees them.
//!
//! The pids are those of the container's cgroup ([`processes`]). The table is what the host's
//! ps(1) prints, without the lines of other processes.

use std::process::{Command, Stdio};

use super::{print, processes};
use crate::cli::{Global, ListFormat, Ps};
use crate::error::{Error, Kind, Result};
use crate::state::Root;
use crate::sys;

/// Prints the processes of the container.
///
/// # Errors
/// No such container; no ps(1), or one that failed.
pub fn execute(global: &Global, args: &Ps) -> Result<()> {
    let root = Root::open(global.root.as_deref())?;
    let record = root.container(&args.id)?.record()?;
    let pids: Vec<i32> = processes::list(&record)?
        .into_iter()
        .map(nix::unistd::Pid::as_raw)
        .collect();
    match args.format {
        ListFormat::Json => {
            let pids = serde_json::to_string(&pids)
                .map_err(|error| Error::new(Kind::System, format!("print as JSON: {error}")))?;
            print(&format!("{pids}\n"))
        }
        ListFormat::Table => print(&table(&ps(&args.options)?, &pids)?),
    }
}

/// What the host's ps(1) prints of all processes.
fn ps(options: &[String]) -> Result<String> {
    let mut command = Command::new("ps");
    sys::process::by_fork(&mut command);
    if options.is_empty() {
        command.arg("-ef");
    }
    command
        .args(options)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = sys::call(command.output(), || "execve(\"ps\")".to_owned())?;
    if !output.status.success() {
        let text = format!("ps {options:?}: {}", output.status);
        return Err(Error::new(Kind::System, text));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The head of ps's output and the lines of these pids, in its order.
fn table(output: &str, pids: &[i32]) -> Result<String> {
    let mut lines = output.lines();
    let head = lines.next().unwrap_or_default();
    let column = head
        .split_ascii_whitespace()
        .position(|word| word == "PID")
        .ok_or_else(|| Error::new(Kind::Usage, "couldn't find PID field in ps output"))?;
    let ours = lines.filter(|line| {
        let word = line.split_ascii_whitespace().nth(column);
        word.and_then(|word| word.parse().ok())
            .is_some_and(|pid| pids.contains(&pid))
    });
    Ok([head]
        .into_iter()
        .chain(ours)
        .flat_map(|line| [line, "\n"])
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_lines_of_the_containers_pids() {
        let output = "UID   PID  PPID CMD\nroot    1     0 init 7\nroot    7     1 sh -c 1\n";
        for (name, pids, kept) in [
            (
                "one",
                &[7][..],
                "UID   PID  PPID CMD\nroot    7     1 sh -c 1\n",
            ),
            ("none", &[], "UID   PID  PPID CMD\n"),
            ("a pid that is gone", &[9], "UID   PID  PPID CMD\n"),
        ] {
            assert_eq!(table(output, pids).unwrap(), kept, "{name}");
        }
        let error = table("CMD\ninit\n", &[1]).unwrap_err();
        assert_eq!(error.to_string(), "couldn't find PID field in ps output");
    }
}
