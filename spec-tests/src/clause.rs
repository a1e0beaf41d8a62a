//! The clauses of a specification as a list: what each page says with MUST,
//! MUST NOT, REQUIRED or SHALL, whom it binds, and which cases prove it.
//!
//! A page is a text of its own, one clause a line:
//!
//! ```text
//! ## Root (#configRoot)
//! readonly runtime  the root filesystem MUST be read-only inside the container
//! path-guid other   On Windows, `path` MUST be a volume GUID path -- Windows only
//!   by run: a case of another target that proves it, too
//! ```
//!
//! Its name is `page/readonly`. The second word says whom it binds: the
//! `runtime`, the author of the `bundle` (there is a case where a runtime can
//! tell, since it must refuse what is invalid), or somebody `other`. What has
//! no case has the reason after ` -- `; [`check`] sees to it that each clause
//! has the one or the other.

use std::collections::{BTreeMap, BTreeSet};

use crate::case::Case;

/// Whom a clause binds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Binds {
    /// The runtime.
    Runtime,
    /// Who writes the bundle.
    Bundle,
    /// Runtimes of other platforms, or the specification's authors.
    Other,
}

/// One clause.
#[derive(Clone, Debug)]
pub struct Clause {
    /// `page/name`.
    pub name: String,
    /// The heading above it, with its anchor.
    pub section: String,
    /// Whom it binds.
    pub binds: Binds,
    /// The words with the MUST.
    pub quote: String,
    /// Why there is no case, if so.
    pub reason: Option<String>,
    /// Cases of another target that prove it: `group: name`.
    pub by: Vec<String>,
}

/// One page of clauses.
#[derive(Clone, Debug)]
pub struct Page {
    /// Its name: `config-linux`.
    pub name: String,
    /// In the page's order.
    pub clauses: Vec<Clause>,
}

impl Page {
    /// Reads a page.
    ///
    /// # Panics
    /// When a line is none of the above.
    pub fn parse(name: &str, text: &str) -> Page {
        let mut clauses: Vec<Clause> = Vec::new();
        let mut section = String::new();
        for line in text.lines() {
            if let Some(heading) = line.strip_prefix("## ") {
                heading.clone_into(&mut section);
            } else if let Some(case) = line.strip_prefix("  by ") {
                let last = clauses.last_mut().expect("a clause before `by`");
                last.by.push(case.to_owned());
            } else if !line.is_empty() && !line.starts_with("# ") {
                clauses.push(clause(name, &section, line));
            }
        }
        Page {
            name: name.to_owned(),
            clauses,
        }
    }
}

fn clause(page: &str, section: &str, line: &str) -> Clause {
    let mut words = line.splitn(2, char::is_whitespace);
    let name = words.next().unwrap_or_default();
    let mut words = words
        .next()
        .unwrap_or_default()
        .trim_start()
        .splitn(2, char::is_whitespace);
    let binds = match words.next() {
        Some("runtime") => Binds::Runtime,
        Some("bundle") => Binds::Bundle,
        Some("other") => Binds::Other,
        who => panic!("{page}: `{line}`: binds {who:?}, not runtime, bundle or other"),
    };
    let rest = words.next().unwrap_or_default().trim();
    let (quote, reason) = match rest.split_once(" -- ") {
        Some((quote, reason)) => (quote.trim(), Some(reason.trim().to_owned())),
        None => (rest, None),
    };
    Clause {
        name: format!("{page}/{name}"),
        section: section.to_owned(),
        binds,
        quote: quote.to_owned(),
        reason,
        by: Vec::new(),
    }
}

/// The names of the cases that prove each clause.
pub fn proofs(pages: &[Page], cases: &[(String, Case)]) -> BTreeMap<String, Vec<String>> {
    let mut proofs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for clause in pages.iter().flat_map(|page| &page.clauses) {
        proofs.insert(clause.name.clone(), clause.by.clone());
    }
    for (name, case) in cases {
        for clause in case.clauses {
            let known = proofs.entry((*clause).to_owned()).or_default();
            known.push(name.clone());
        }
    }
    proofs
}

/// What is wrong with the list: a clause with neither case nor reason or with
/// both, a name that is there twice or not at all, a quote that is no clause or
/// is longer than a citation.
pub fn check(pages: &[Page], cases: &[(String, Case)]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut names = BTreeSet::new();
    let proofs = proofs(pages, cases);
    for clause in pages.iter().flat_map(|page| &page.clauses) {
        let name = &clause.name;
        if !names.insert(name.clone()) {
            wrong.push(format!("{name}: there are two of this name"));
        }
        let engines = name.starts_with("engines/");
        if !engines
            && !["MUST", "REQUIRED", "SHALL"]
                .iter()
                .any(|word| clause.quote.contains(word))
        {
            wrong.push(format!("{name}: \"{}\" is no clause", clause.quote));
        }
        if clause.quote.len() > 160 || clause.section.is_empty() {
            wrong.push(format!(
                "{name}: no section, or a quote of {} bytes",
                clause.quote.len()
            ));
        }
        match (proofs[name].is_empty(), &clause.reason) {
            (true, None) => wrong.push(format!("{name}: neither case nor reason")),
            (false, Some(_)) => wrong.push(format!("{name}: a case and a reason for having none")),
            _ => {}
        }
        for case in &clause.by {
            if !cases.iter().any(|(full, _)| full == case) {
                wrong.push(format!("{name}: there is no case \"{case}\""));
            }
        }
    }
    for (name, case) in cases {
        for clause in case
            .clauses
            .iter()
            .filter(|clause| !names.contains(**clause))
        {
            wrong.push(format!("case \"{name}\": there is no clause {clause}"));
        }
    }
    wrong
}
