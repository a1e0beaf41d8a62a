//! `rrun plan`: what would be done for a bundle, and nothing done.

use std::path::Path;

use serde_json::Value;

use super::launch::{cgroup_manager, labels, profile, read_config, rootless};
use super::print;
use crate::cli::{self, Global, PlanFormat};
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::plan::cgroup::Manager;
use crate::plan::report::Report;
use crate::plan::{Plan, Request};
use crate::spec::Spec;
use crate::spec::fields::{self, Treatment};
use crate::sys;

/// Prints the plan. The exit code is 1 if `create` would refuse the bundle.
///
/// # Errors
/// A bundle that can't be read.
pub fn execute(global: &Global, args: &cli::Plan) -> Result<u8> {
    let bundle = args.bundle();
    let bundle = sys::call(bundle.canonicalize(), || format!("realpath({bundle:?})"))?;
    let json = read_config(&bundle)?;
    let mut report = match plan(global, &bundle, &json) {
        Ok(plan) => Report::of(&plan),
        Err(error) => Report {
            bundle: bundle.to_string_lossy().into_owned(),
            refused: vec![error.to_string()],
            ..Report::default()
        },
    };
    by_the_table(&json, &mut report);
    match args.format() {
        PlanFormat::Text => print(&report.text())?,
        PlanFormat::Json => {
            let json = serde_json::to_string_pretty(&report)
                .map_err(|error| Error::new(Kind::System, format!("print as JSON: {error}")))?;
            print(&format!("{json}\n"))?;
        }
    }
    Ok(u8::from(!report.refused.is_empty()))
}

/// Adds what the table of fields says of the document, where the plan has not.
fn by_the_table(json: &[u8], report: &mut Report) {
    let Ok(document) = serde_json::from_slice::<Value>(json) else {
        return;
    };
    let fields = fields::of(&document, "");
    let unknown = fields.unknown.iter();
    let unknown = unknown.map(|path| format!("{path}: unknown property"));
    report.ignored.extend(unknown);
    for asked in fields.asked {
        let (path, why) = (asked.path, asked.field.why());
        let (lines, line) = match asked.field.treatment {
            Treatment::Ignored(_) => (&mut report.ignored, format!("{path} is ignored: {why}")),
            Treatment::Refused(_) => (&mut report.refused, format!("{path} is refused: {why}")),
            _ => continue,
        };
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
}

/// The plan of the bundle under the name of its folder.
fn plan(global: &Global, bundle: &Path, json: &[u8]) -> Result<Plan> {
    let spec = Spec::parse(json)?;
    let manager = cgroup_manager(global);
    let host = Host::read(rootless(global))?
        .knowing_seccomp(profile(&spec))
        .knowing_selinux(labels(&spec))
        .knowing_resctrl(&spec)?;
    // A plan needs no systemd that can be reached.
    let host = host
        .clone()
        .knowing_systemd(manager == Manager::Systemd)
        .unwrap_or(host);
    let name = bundle.file_name().unwrap_or_default().to_string_lossy();
    let request = Request {
        id: &name,
        bundle,
        no_pivot: false,
        no_new_keyring: false,
        manager,
        listen_fds: 0,
        notify: None,
    };
    Plan::new(&spec, &request, &host)
}
