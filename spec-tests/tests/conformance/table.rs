//! What a run found, as a table: for each page how many clauses there are, how
//! many have a case, and how many each runtime keeps; below it, why not.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};
use spec_tests::Case;
use spec_tests::clause::{Binds, Clause, Page, proofs};
use spec_tests::runner::{Report, Verdict};

/// What came of a clause on one runtime, the worst of all its cases and views.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Kept {
    /// Each case passed wherever it ran.
    Yes,
    /// No case ran.
    Unknown(String),
    /// A known exception, with the reason.
    Excepted(String),
    /// A case failed, with what it wrote.
    No(String),
}

/// A runtime and what it was seen to do.
struct Column {
    title: String,
    views: Vec<String>,
    kept: BTreeMap<String, Kept>,
}

/// A report as JSON.
pub(crate) fn written(report: &Report) -> Value {
    let verdicts: Vec<Value> = report
        .verdicts
        .iter()
        .map(|(name, verdict)| match verdict {
            Verdict::Passed => json!([name, "passed", ""]),
            Verdict::Failed(text) => json!([name, "failed", text]),
            Verdict::Excepted(reason) => json!([name, "excepted", reason]),
            Verdict::LeftOut(reason) => json!([name, "left out", reason]),
        })
        .collect();
    json!({ "runtime": report.runtime, "version": report.version, "view": report.view, "verdicts": verdicts })
}

/// The table of results in files.
pub(crate) fn of_files(pages: &[Page], cases: &[(String, Case)], files: &[String]) -> String {
    let read = |path: &String| {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    of(
        pages,
        cases,
        &files.iter().map(read).collect::<Vec<Value>>(),
    )
}

/// The table of these results.
pub(crate) fn of(pages: &[Page], cases: &[(String, Case)], results: &[Value]) -> String {
    let proofs = proofs(pages, cases);
    let columns = columns(&proofs, results);
    let mut text = String::new();
    let mut rows = vec![heading(&columns)];
    for page in pages {
        rows.push(row(
            &page.name,
            &page.clauses.iter().collect::<Vec<_>>(),
            &proofs,
            &columns,
        ));
    }
    let all: Vec<&Clause> = pages.iter().flat_map(|page| &page.clauses).collect();
    rows.push(row("all", &all, &proofs, &columns));
    aligned(&mut text, &rows);
    let _ = writeln!(
        text,
        "\nclauses: with MUST, MUST NOT, REQUIRED or SHALL. bind: of these, the ones for runtimes on Linux and for\n\
         bundles. covered: have a case; the others have a reason (--clauses). K of N: K clauses kept, of N that could be tried here.",
    );
    for column in &columns {
        failures(&mut text, &all, column);
    }
    text
}

/// Each clause with its cases, or the reason why there is none.
pub(crate) fn clauses(pages: &[Page], cases: &[(String, Case)]) -> String {
    let proofs = proofs(pages, cases);
    let mut text = String::new();
    let mut number = 0;
    for page in pages {
        let _ = writeln!(text, "# {}", page.name);
        let mut section = "";
        for clause in &page.clauses {
            if clause.section != section {
                section = &clause.section;
                let _ = writeln!(text, "\n## {section}\n");
            }
            number += 1;
            let binds = match clause.binds {
                Binds::Runtime => "",
                Binds::Bundle => " [bundle]",
                Binds::Other => " [other]",
            };
            let _ = writeln!(text, "{number:3} {}{binds}: {}", clause.name, clause.quote);
            for case in &proofs[&clause.name] {
                let _ = writeln!(text, "      {case}");
            }
            if let Some(reason) = &clause.reason {
                let _ = writeln!(text, "      no case: {reason}");
            }
        }
        text.push('\n');
    }
    text
}

/// One column for each runtime, whatever the number of its views.
fn columns(proofs: &BTreeMap<String, Vec<String>>, results: &[Value]) -> Vec<Column> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut columns: Vec<Column> = Vec::new();
    for result in results {
        let title = format!("{} {}", word(&result["runtime"]), word(&result["version"]));
        let mut verdicts: BTreeMap<String, Kept> = BTreeMap::new();
        for verdict in result["verdicts"].as_array().into_iter().flatten() {
            let kept = match verdict[1].as_str() {
                Some("passed") => Kept::Yes,
                Some("excepted") => Kept::Excepted(word(&verdict[2])),
                Some("left out") => Kept::Unknown(word(&verdict[2])),
                _ => Kept::No(word(&verdict[2])),
            };
            verdicts.insert(word(&verdict[0]), kept);
        }
        let at = columns
            .iter()
            .position(|column| column.title == title)
            .unwrap_or_else(|| {
                columns.push(Column {
                    title,
                    views: Vec::new(),
                    kept: BTreeMap::new(),
                });
                columns.len() - 1
            });
        let column = &mut columns[at];
        column.views.push(word(&result["view"]));
        for (clause, cases) in proofs {
            for kept in cases.iter().filter_map(|case| verdicts.get(case)) {
                let worst = match column.kept.get(clause) {
                    Some(before) if rank(before) >= rank(kept) => continue,
                    _ => kept.clone(),
                };
                column.kept.insert(clause.clone(), worst);
            }
        }
    }
    columns
}

/// A case that did not run in one view says nothing against one that did.
fn rank(kept: &Kept) -> u8 {
    match kept {
        Kept::Unknown(_) => 0,
        Kept::Yes => 1,
        Kept::Excepted(_) => 2,
        Kept::No(_) => 3,
    }
}

fn heading(columns: &[Column]) -> Vec<String> {
    let fixed = ["page", "clauses", "bind", "covered"].map(str::to_owned);
    fixed
        .into_iter()
        .chain(columns.iter().map(|column| column.title.clone()))
        .collect()
}

fn row(
    name: &str,
    clauses: &[&Clause],
    proofs: &BTreeMap<String, Vec<String>>,
    columns: &[Column],
) -> Vec<String> {
    let bind = clauses
        .iter()
        .filter(|clause| clause.binds != Binds::Other)
        .count();
    let covered = clauses
        .iter()
        .filter(|clause| !proofs[&clause.name].is_empty())
        .count();
    let mut cells = vec![
        name.to_owned(),
        clauses.len().to_string(),
        bind.to_string(),
        covered.to_string(),
    ];
    for column in columns {
        let known = clauses
            .iter()
            .filter_map(|clause| column.kept.get(&clause.name));
        let known: Vec<&Kept> = known
            .filter(|kept| !matches!(kept, Kept::Unknown(_)))
            .collect();
        let yes = known.iter().filter(|kept| ***kept == Kept::Yes).count();
        cells.push(format!("{yes} of {}", known.len()));
    }
    cells
}

fn aligned(text: &mut String, rows: &[Vec<String>]) {
    let width = |at: usize| rows.iter().map(|row| row[at].len()).max().unwrap_or(0);
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(at, cell)| match at {
                0 => format!("{cell:<0$}", width(at)),
                _ => format!("{cell:>0$}", width(at)),
            })
            .collect();
        let line = cells.join("  ");
        if index + 1 == rows.len() {
            let _ = writeln!(text, "{}", "-".repeat(line.len()));
        }
        let _ = writeln!(text, "{line}");
        if index == 0 {
            let _ = writeln!(text, "{}", "-".repeat(line.len()));
        }
    }
}

/// Why this runtime does not keep what it does not keep.
fn failures(text: &mut String, clauses: &[&Clause], column: &Column) {
    let mut known: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut failed: Vec<(&str, String)> = Vec::new();
    let mut unknown = 0;
    for clause in clauses {
        match column.kept.get(&clause.name) {
            Some(Kept::Excepted(reason)) => known.entry(reason).or_default().push(&clause.name),
            Some(Kept::No(said)) => failed.push((&clause.name, brief(said))),
            Some(Kept::Unknown(_)) => unknown += 1,
            _ => {}
        }
    }
    let _ = writeln!(text, "\n{} ({})", column.title, column.views.join(", "));
    for (clause, said) in &failed {
        let _ = writeln!(text, "  FAILED {clause}: {said}");
    }
    for (reason, names) in &known {
        let _ = writeln!(text, "  not kept, {reason}:");
        for name in names {
            let _ = writeln!(text, "    {name}");
        }
    }
    if failed.is_empty() && known.is_empty() {
        let _ = writeln!(text, "  keeps every clause that could be tried");
    }
    if unknown > 0 {
        let _ = writeln!(text, "  {unknown} clauses could not be tried here");
    }
}

/// The assertion of a failed case without the panic's own words, in one line.
fn brief(said: &str) -> String {
    let lines = said.lines().filter(|line| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with("thread '") && !line.starts_with("note: ")
    });
    let mut line = lines.collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(240) {
        line.truncate(end);
        line.push_str("...");
    }
    line
}
