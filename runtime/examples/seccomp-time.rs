//! How long the compiler takes: `seccomp-time PROFILE.json [ROUNDS]` prints
//! the times of parsing and of compiling a profile, and the program's size.
//! `hack/bench` runs it; under callgrind one round counts instructions.

use std::time::{Duration, Instant};

use rrun::seccomp::{Arch, Support, compile};
use rrun::spec::Seccomp;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args
        .next()
        .ok_or("usage: seccomp-time PROFILE.json [ROUNDS]")?;
    let rounds = args.next().map_or(Ok(1000), |rounds| rounds.parse())?;
    let text = std::fs::read(path)?;
    let (mut parse, mut compiled) = (Vec::new(), Vec::new());
    let mut instructions = 0;
    for _ in 0..rounds {
        let start = Instant::now();
        let profile: Seccomp = serde_json::from_slice(&text)?;
        parse.push(start.elapsed());
        let start = Instant::now();
        let filter = compile(&profile, Arch::native(), &Support::default())?;
        compiled.push(start.elapsed());
        instructions = filter.program.len();
    }
    println!("parse: {}", times(&mut parse));
    println!("compile: {}", times(&mut compiled));
    println!("instructions: {instructions}");
    Ok(())
}

/// The first is what a runtime pays, which compiles once.
fn times(times: &mut [Duration]) -> String {
    let Some(first) = times.first().copied() else {
        return "no rounds".to_owned();
    };
    times.sort_unstable();
    let micros = |time: Duration| format!("{:.1} us", time.as_secs_f64() * 1e6);
    format!(
        "first {}, median {}, least {}",
        micros(first),
        micros(times[times.len() / 2]),
        micros(times[0])
    )
}
