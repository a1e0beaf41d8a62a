//! `rrun list`: the containers of the state root.

use super::print;
use super::state::Description;
use crate::cli::{Global, List, ListFormat};
use crate::error::{Error, Kind, Result};
use crate::log::Log;
use crate::state::{Container, ContainerId, Record, Root};

/// Prints the containers. One that can't be read is a warning, so that the
/// others are seen.
///
/// # Errors
/// A state root that can't be read.
pub fn execute(global: &Global, log: &Log, args: &List) -> Result<()> {
    let root = Root::open(global.root.as_deref())?;
    let mut containers: Vec<(Container, Record)> = Vec::new();
    for id in root.ids()? {
        match found(&root, &id) {
            Ok(container) => containers.extend(container),
            Err(error) => log.warn(format!("list {:?}: {error}", id.as_str())),
        }
    }
    if args.quiet {
        let lines = containers
            .iter()
            .map(|(_, record)| format!("{}\n", record.id));
        return print(&lines.collect::<String>());
    }
    let mut descriptions = Vec::new();
    for (container, record) in &containers {
        match Description::of(container, record) {
            Ok(description) => descriptions.push(description),
            Err(error) => log.warn(format!("list {:?}: {error}", record.id.as_str())),
        }
    }
    match args.format {
        ListFormat::Table => print(&table(&descriptions)),
        ListFormat::Json => print(&json(&descriptions)?),
    }
}

/// A container and its record; `None` for one that was deleted meanwhile and
/// for a directory that a `create` left without a record.
fn found(root: &Root, id: &ContainerId) -> Result<Option<(Container, Record)>> {
    let read = root
        .container(id)
        .and_then(|container| container.record().map(|record| (container, record)));
    match read {
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// An array; runc's `null` for none, which engines have learned to take.
fn json(descriptions: &[Description<'_>]) -> Result<String> {
    if descriptions.is_empty() {
        return Ok("null".to_owned());
    }
    serde_json::to_string(descriptions)
        .map_err(|error| Error::new(Kind::System, format!("print as JSON: {error}")))
}

/// Columns of at least 12 characters, 3 of them free, as runc's.
fn table(descriptions: &[Description<'_>]) -> String {
    const HEAD: [&str; 6] = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"];
    let rows: Vec<[String; 6]> = [HEAD.map(str::to_owned)]
        .into_iter()
        .chain(descriptions.iter().map(|one| {
            [
                one.id.to_string(),
                one.pid.to_string(),
                one.status.to_string(),
                one.bundle.display().to_string(),
                one.created.to_owned(),
                one.owner.clone(),
            ]
        }))
        .collect();
    let width = |column: usize| {
        let longest = rows.iter().map(|row| row[column].chars().count()).max();
        (longest.unwrap_or(0) + 3).max(12)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(widths).take(5) {
            text += &format!("{cell:width$}");
        }
        text += &row[5];
        text.push('\n');
    }
    text
}
